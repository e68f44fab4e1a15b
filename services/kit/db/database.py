"""Sessions on a service's own PostgreSQL database, with a deadline on every wait."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import eventlet
import nameko_sqlalchemy.database
import psycopg2
import sqlalchemy.event
import sqlalchemy.exc
from eventlet.semaphore import Semaphore
from psycopg2 import extensions
from sqlalchemy import Connection, Engine, ExceptionContext
from sqlalchemy.orm import Session

from services.kit.db.connecting import connect, wait
from services.kit.db.session import BY_INDEX, as_options, with_each_statement
from services.kit.db.statements import PREPARE
from services.kit.db.traced import trace_statements
from services.kit.errors import DatabaseAway, DriverFailed, TryAgain

Connected = TypeVar("Connected")

#: Refuses as a statement that writes would. (A standby, or default_transaction_read_only.)
CHECK_WRITABLE = """do $$ begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using errcode = '25006', message = 'the database is read-only';
    end if;
end $$"""

OTHERS = 4  # connections besides those of the workers: for the relay, inbox, recovery, streams and the health check

#: SQLSTATEs, or their classes, of a server that can do nothing for us now, or does not know itself whether it
#: committed (40003). (PostgreSQL manual, appendix A.)
AWAY = ("08", "25006", "25P03", "25P04", "40003", "53", "57P", "58")
#: ... of a server that has rolled back: serialization failure, deadlock, lock not available, statement timeout.
ROLLED_BACK = ("40001", "40P01", "55P03", "57014")


class Database(nameko_sqlalchemy.Database):
    """nameko-sqlalchemy's provider with a bounded pool and bounded waits.

    Workers share DB_CONNECTIONS, and wait for one in turn: most of them only wait for a round, which needs one for all.
    OTHERS more are out of their reach, so that slow requests stop neither the relay nor the health check; the inbox and
    recovery, which are not many at a time, share those. (Nygard, "Release It!", 2nd edition, 2018: bulkheads.)

    The server ends a statement after DB_TIMEOUT_S; if the server itself is silent, the client gives up
    a second later and closes the connection.
    """

    def setup(self) -> None:
        settings = self.container.settings
        milliseconds = int(settings.DB_TIMEOUT_S * 1000)
        lock_milliseconds = int(min(settings.LOCK_TIMEOUT_S, settings.DB_TIMEOUT_S / 2) * 1000)
        session: dict[str, str | int] = {
            "statement_timeout": milliseconds,
            "lock_timeout": lock_milliseconds,
            "idle_in_transaction_session_timeout": milliseconds * 2,
            **BY_INDEX,
        }
        extensions.set_wait_callback(partial(wait, timeout_s=settings.DB_TIMEOUT_S + 1))
        self.turns = Semaphore(settings.DB_CONNECTIONS)
        self.session_options = {"expire_on_commit": False}
        self.engine_options = {
            "pool_size": settings.DB_CONNECTIONS + OTHERS,
            "max_overflow": 0,
            "pool_timeout": settings.DB_TIMEOUT_S,
            "pool_use_lifo": True,
            "hide_parameters": True,  # values have no place in a log
            "connect_args": {"application_name": self.container.service_name},
            "execution_options": {PREPARE: not settings.DB_BEHIND_POOLER},
        }
        if not settings.DB_BEHIND_POOLER:
            self.engine_options["connect_args"]["options"] = as_options(session)
        super().setup()
        if self.container.tracer.is_on:
            trace_statements(self.engine, self.container.tracer)
        if settings.DB_BEHIND_POOLER:
            with_each_statement(self.engine, session)
        sqlalchemy.event.listen(self.engine, "handle_error", classify)
        sqlalchemy.event.listen(self.engine, "do_connect", partial(connect, settings.DB_TIMEOUT_S + 1))
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

    def check_writable(self) -> None:
        """Raise DatabaseAway, and drop the connections, unless the database can be written to."""
        with self.autocommit() as connection:
            connection.exec_driver_sql(CHECK_WRITABLE)


class Autocommit:
    """A connection for single statements: `with self.db.autocommit() as connection:`.

    Each statement is a transaction by itself, for which neither BEGIN nor COMMIT has to travel.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Connection:
        self._connection = self._engine.connect()
        # kept, because a SQLAlchemy connection that has lost its own refuses to be asked for it
        self._driver: Any = self._connection.connection.dbapi_connection
        self._set(True)
        return self._connection

    def __exit__(self, *_: object) -> None:
        try:
            self._set(False)
        finally:
            self._connection.close()

    def _set(self, autocommit: bool) -> None:
        if not self._driver.closed:
            self._driver.autocommit = autocommit


class Sessions(nameko_sqlalchemy.database.DatabaseWrapper):
    """What a worker holds of a Database: `with self.db.get_session() as session:` commits at the end.

    Both ways raise sqlalchemy.exc.TimeoutError after DB_TIMEOUT_S without a turn. A worker takes one at a time.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.Session)
        self._database = database

    def get_session(self) -> AbstractContextManager[Session]:
        return self._in_turn(self._database.session())

    def autocommit(self) -> AbstractContextManager[Connection]:
        """See Autocommit."""
        return self._in_turn(self._database.autocommit())

    @contextmanager
    def _in_turn(self, connected: AbstractContextManager[Connected]) -> Iterator[Connected]:
        timeout_s = self._database.container.settings.DB_TIMEOUT_S
        turns = self._database.turns
        if turns.balance < 1:
            eventlet.sleep(0)  # a turn that was given back just now is of who has waited for it
        if not turns.acquire(timeout=timeout_s):
            raise sqlalchemy.exc.TimeoutError(f"no connection of DB_CONNECTIONS was free for {timeout_s:g} s")
        try:
            with connected as one:
                yield one
        finally:
            turns.release()


def classify(context: ExceptionContext) -> Exception | None:
    """Name an error by what it tells about the outcome, and drop the connections that have no future.

    SQLAlchemy's `handle_error` event: it raises what this returns, or its own error for None.
    """
    closed = _is_closed(context.connection)
    original, error = context.original_exception, context.sqlalchemy_exception
    if not isinstance(original, psycopg2.Error) or not isinstance(error, sqlalchemy.exc.DBAPIError):
        if closed:  # a deadline of ours ended the wait, see connecting.wait; the other connections are all right
            context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
        return None
    kind = _kind(original, closed) or type(error)
    _hide_values(original)
    context.is_disconnect = context.is_disconnect or kind is DatabaseAway
    return kind(
        error.statement,
        error.params,
        original,
        hide_parameters=True,
        connection_invalidated=context.is_disconnect,
        ismulti=error.ismulti,
    )


def _kind(error: psycopg2.Error, closed: bool) -> type[sqlalchemy.exc.DBAPIError] | None:
    code = error.pgcode
    if closed or (code and code.startswith(AWAY)) or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
        return DatabaseAway
    if code:
        return TryAgain if code in ROLLED_BACK else None
    # no answer of the server's: a lost connection is one of these, the rest is the driver's
    if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)) or type(error) is psycopg2.DatabaseError:
        return DatabaseAway
    return DriverFailed


def _hide_values(error: psycopg2.Error) -> None:
    """Leave of the server's message only what names no value: its detail and the line that it quotes do."""
    if error.pgcode:
        shown = "a value that is refused" if error.pgcode.startswith("22") else error.diag.message_primary
        error.args = (f"{shown} (SQLSTATE {error.pgcode})",)


def _is_closed(connection: Connection | None) -> bool:
    """Whether there is no connection to the server (any more)."""
    if connection is None or connection.closed or connection.invalidated:
        return True
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.closed)
