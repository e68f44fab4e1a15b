"""Alembic with one environment here, and a folder of versions in each service."""

import time
from pathlib import Path

import alembic.command
from alembic.config import Config
from psycopg2.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

HERE = Path(__file__).parent

LOCK_S = 1.0
PAUSE_S = 1.0
PATIENCE_S = 60.0


def configuration(url: str, versions: Path, metadata: object) -> Config:
    """Return Alembic's configuration for the database of a service."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(versions))
    config.set_main_option("path_separator", "newline")
    config.attributes["url"] = url
    config.attributes["lock_s"] = LOCK_S
    config.attributes["patience_s"] = PATIENCE_S
    config.attributes["metadata"] = metadata
    return config


def upgrade(service: str, url: str, versions: Path, metadata: object) -> None:
    """Bring the database of `service` to the newest of its `versions`.

    It is safe to run twice, and by several replicas at once.

    While a migration waits for a table, PostgreSQL makes everybody else wait for it too. So it waits for LOCK_S at
    a time, less than a request does for its statement, then begins anew; TimeoutError after PATIENCE_S.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return alembic.command.upgrade(configuration(url, versions, metadata), "head")
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"{service}: a migration needs a lock that somebody else has held for {PATIENCE_S:g} s")
        time.sleep(PAUSE_S)
