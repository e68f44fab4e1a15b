"""Sessions on a service's own PostgreSQL database, with a deadline on every wait."""
from functools import partial
from typing import Any

import nameko_sqlalchemy
import psycopg2
import sqlalchemy.exc
from eventlet.hubs import trampoline
from psycopg2 import extensions
from sqlalchemy import make_url
from sqlalchemy.orm import Session

#: What SQLAlchemy raises while the database is away, frozen or restarting, or its pool is used up.
DATABASE_DOWN = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
)


class Database(nameko_sqlalchemy.Database):
    """nameko-sqlalchemy's provider with a pool as large as the worker pool and bounded waits.

    The server ends a statement after DB_TIMEOUT_S; if the server itself is silent, the client gives up
    a second later and closes the connection.
    """

    def setup(self) -> None:
        settings = self.container.settings
        milliseconds = int(settings.DB_TIMEOUT_S * 1000)
        extensions.set_wait_callback(partial(_wait, timeout_s=settings.DB_TIMEOUT_S + 1))
        self.session_options = {"expire_on_commit": False}
        self.engine_options = {
            "pool_size": settings.max_workers + 4,  # the relay, the timers and the health check need one too
            "max_overflow": 0,
            "pool_timeout": settings.DB_TIMEOUT_S,
            "pool_use_lifo": True,
            "connect_args": {
                "application_name": self.container.service_name,
                "options": f"-c statement_timeout={milliseconds}"
                           f" -c idle_in_transaction_session_timeout={milliseconds * 2}",
            },
        }
        super().setup()

    def session(self) -> Session:
        """A session for an extension: `with database.session() as session:` commits at the end."""
        return self.Session(close_on_exit=True)


def with_driver(url: str) -> str:
    """The URL with psycopg2 spelled out; SQLAlchemy 2.1 takes another driver where none is named."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")
    return parsed.render_as_string(hide_password=False)


def _wait(connection: Any, timeout_s: float) -> None:
    """Wait for PostgreSQL in this green thread only (psycopg2's wait callback), `timeout_s` at the most.

    psycopg2 closes the connection when its callback raises, so a late answer is never taken for another's.
    """
    silent = psycopg2.OperationalError(f"the database was silent for {timeout_s:g} s")
    while (state := connection.poll()) != extensions.POLL_OK:
        reading = state == extensions.POLL_READ
        trampoline(connection.fileno(), read=reading, write=not reading, timeout=timeout_s, timeout_exc=silent)
