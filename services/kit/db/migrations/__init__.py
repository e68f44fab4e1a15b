"""Alembic with one environment here, and a folder of versions in each service."""

import logging
import time
from pathlib import Path
from typing import Any

import alembic.command
from alembic import op
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from psycopg2.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

HERE = Path(__file__).parent

LOCK_S = 1.0
PAUSE_S = 1.0
PATIENCE_S = 60.0

#: Where the version of a database is written down. Not in Alembic's own table, where 0.1.0 has written its version, and
#: goes on to find it: a version that it does not know would keep it from starting, beside this one or in its place.
VERSION_TABLE, FORMER_VERSION_TABLE = "schema_version", "alembic_version"

#: End the sessions from before that do nothing now, and return how many of them there still are.
END_IDLE = text(
    """
    select count(*) filter (where case when state = 'idle' then pg_terminate_backend(pid) else true end)
    from pg_stat_activity
    where datname = current_database() and application_name = :service and backend_start < :since"""
)
ENDED_S, POLL_S = 5.0, 0.05

log = logging.getLogger(__name__)


class AnotherIsUnderWay(Exception):
    """Somebody else migrates the same database now."""


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

    It is safe to run twice, and by several replicas at once: one of them migrates. A database that a newer version has
    migrated stays as it is: this code runs on it too, since what it needs is removed later than it is replaced.

    While a migration waits for a table, PostgreSQL makes everybody else wait for it too. So it waits for LOCK_S at
    a time, less than a request does for its statement, then begins anew; TimeoutError after PATIENCE_S.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return alembic.command.upgrade(configuration(url, versions, metadata), "head")
        except AnotherIsUnderWay:
            pass
        except CommandError as error:
            if not isinstance(error.__cause__, ResolutionError):
                raise
            return log.warning("%s: the database is of a newer version, and stays as it is", service)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"{service}: a migration needs a lock that somebody else has held for {PATIENCE_S:g} s")
        time.sleep(PAUSE_S)


def build_index(name: str, table: str, columns: list[Any], **options: Any) -> None:
    """Build an index while others go on to write; for migrations. What a build that was cut off has left is replaced.

    What the migration has done before this is committed.
    """
    with op.get_context().autocommit_block():
        op.execute(f"set lock_timeout = {int(PATIENCE_S * 1000)}")  # nobody waits behind a concurrent build
        invalid = "select from pg_index where indexrelid = to_regclass(:name) and not indisvalid"
        if op.get_bind().execute(text(invalid), {"name": name}).first() is not None:
            op.drop_index(name, table_name=table, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, if_not_exists=True, **options)
        op.execute(f"set lock_timeout = {int(LOCK_S * 1000)}")


def end_sessions(service: str) -> None:
    """End the sessions that a service has now, each while it is idle; for migrations that add a column.

    0.1.0 has prepared statements that return all columns of a row, which fail once there is one more. In a new session
    it prepares them anew. It notices the end of one when it uses the next: what it does then is answered 503, once in
    each process. What the migration has done before this is committed.
    """
    with op.get_context().autocommit_block():
        since = op.get_bind().execute(text("select clock_timestamp()")).scalar()
        deadline = time.monotonic() + ENDED_S
        while op.get_bind().execute(END_IDLE, {"service": service, "since": since}).scalar():
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)
