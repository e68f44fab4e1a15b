"""Sessions on a service's own PostgreSQL database, with a deadline on every wait."""
from collections.abc import Sequence
from functools import partial
from typing import Any

import nameko_sqlalchemy.database
import psycopg2
import sqlalchemy.exc
from eventlet.hubs import trampoline
from psycopg2 import extensions
from sqlalchemy import Connection, CursorResult, Engine, make_url
from sqlalchemy.orm import Session

#: What SQLAlchemy raises while the database is away, frozen or restarting, or its pool is used up.
DATABASE_DOWN = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
)

#: All our statements read a few rows by an index. PostgreSQL would not, and would keep to it for a minute or so,
#: with a plan that it made while the table was all but empty.
BY_INDEX = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"


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
                           f" -c idle_in_transaction_session_timeout={milliseconds * 2} {BY_INDEX}",
            },
        }
        super().setup()
        self._engine = self.engine  # which nameko-sqlalchemy deletes when it stops, while the outbox still relays

    def get_dependency(self, worker_ctx: Any) -> "Sessions":
        sessions = self.dbs[worker_ctx] = Sessions(self)
        return sessions

    def session(self) -> Session:
        """A session for an extension: `with database.session() as session:` commits at the end."""
        return self.Session(close_on_exit=True)

    def autocommit(self) -> "Autocommit":
        """See Autocommit."""
        return Autocommit(self._engine)


class Autocommit:
    """A connection for single statements: `with self.db.autocommit() as connection:`.

    Each statement is a transaction by itself, for which neither BEGIN nor COMMIT has to travel.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Connection:
        self._connection = self._engine.connect()
        self._set(True)
        return self._connection

    def __exit__(self, *_: object) -> None:
        try:
            self._set(False)
        finally:
            self._connection.close()

    def _set(self, autocommit: bool) -> None:
        connection: Any = self._connection.connection.dbapi_connection
        if connection is not None and not connection.closed:
            connection.autocommit = autocommit


class Sessions(nameko_sqlalchemy.database.DatabaseWrapper):
    """What a worker holds of a Database: `with self.db.get_session() as session:` commits at the end."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.Session)
        self._database = database

    def autocommit(self) -> Autocommit:
        """See Autocommit."""
        return self._database.autocommit()


class Prepared:
    """A statement that PostgreSQL parses and plans once a connection rather than each time.

    `Prepared("name", ["uuid[]", "bigint[]"], "select ... $1 ... $2")`, then `statement.run(connection, ids, amounts)`.
    """

    def __init__(self, name: str, types: Sequence[str], sql: str) -> None:
        self._name = name
        declared = f"({', '.join(types)})" if types else ""
        given = f"({', '.join(f'%s::{one}' for one in types)})" if types else ""
        self.prepare = f"prepare {name} {declared} as {sql}"
        self._execute = f"execute {name} {given}"

    def run(self, connection: Connection, *values: Any) -> CursorResult[Any]:
        """Execute it with `values`; a list is an array."""
        if self._name not in connection.info:  # which lives as long as the connection to the server
            connection.exec_driver_sql(self.prepare)
            connection.info[self._name] = True
        return connection.exec_driver_sql(self._execute, values)


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
