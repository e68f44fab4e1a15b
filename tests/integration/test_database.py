"""A lost connection is an unknown outcome, and each error of PostgreSQL is named by what it tells about the outcome."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import eventlet
import psycopg2
import pytest
import sqlalchemy.exc
from eventlet import Timeout
from psycopg2 import extensions
from sqlalchemy import text

from services.kit.config import check
from services.kit.db.connecting import with_driver
from services.kit.db.database import OTHERS, Database, Sessions
from services.kit.errors import (
    DATABASE_DOWN,
    NOTHING_DONE,
    OUTCOME_UNKNOWN,
    TEMPORARY,
    DatabaseAway,
    DriverFailed,
    TryAgain,
    Unavailable,
)
from services.kit.tracing import Tracer
from services.kit.web.problems import from_exception
from services.local.net import wait_for
from services.local.postgres import Postgres
from services.orders.models import Base
from tests.standby import plain, set_read_only
from tests.unit.kit.test_config import config

SECRET = "ada@example.com"
RAISE = "do $$ begin raise exception using errcode = '{}'; end $$"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(["orders"])
        with psycopg2.connect(plain(server.url("orders"))) as connection, connection.cursor() as cursor:
            cursor.execute("create table things (id integer primary key)")
            cursor.execute("create table letters (body text primary key)")
        connection.close()
        yield server


@pytest.fixture
def things(postgres: Postgres) -> Iterator[Callable[[], list[int]]]:
    """What the table holds, seen from outside; it is empty at first."""
    connection = psycopg2.connect(plain(postgres.url("orders")))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("truncate things")

    def seen() -> list[int]:
        cursor.execute("select id from things order by id")
        return [one for (one,) in cursor]

    yield seen
    connection.close()


@pytest.fixture
def make_database() -> Iterator[Callable[..., Database]]:
    """Makes the provider of a service that has nothing else."""
    made = []

    def make(url: str, **settings: Any) -> Database:
        database = Database(Base)
        database.container = SimpleNamespace(
            tracer=Tracer(),
            settings=check({**config(), "DB_TIMEOUT_S": 1, **settings}),
            service_name="orders",
            config={"DB_URIS": {"orders:Base": url}},
        )
        database.setup()
        made.append(database)
        return database

    yield make
    for database in made:
        database.stop()
    extensions.set_wait_callback(None)


@pytest.fixture
def database(postgres: Postgres, make_database: Callable[..., Database]) -> Database:
    return make_database(postgres.url("orders"))


class Cutter:
    """A proxy before a server, which can cut every connection instead of handing on the next reply."""

    def __init__(self, port: int) -> None:
        self.cutting = False
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            replies = threading.Thread(target=self._hand_on, args=(server, client, True), daemon=True)
            replies.start()
            self._hand_on(client, server, False)
            replies.join()

    def _hand_on(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        try:
            while (data := source.recv(65_536)) and not (is_reply and self.cutting):
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def cutter(postgres: Postgres) -> Iterator[Cutter]:
    proxy = Cutter(postgres.port)
    yield proxy
    proxy.close()


def backend(connection: Any) -> int:
    return connection.exec_driver_sql("select pg_backend_pid()").scalar_one()


def terminate(postgres: Postgres, pid: int) -> None:
    with psycopg2.connect(plain(postgres.url("orders"))) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_terminate_backend(%s, 5000)", [pid])
    connection.close()


def test_a_connection_that_was_terminated_is_an_unknown_outcome(postgres, database, things):
    with pytest.raises(DatabaseAway), database.autocommit() as connection:
        terminate(postgres, backend(connection))
        connection.exec_driver_sql("insert into things values (1)")
    assert things() == []
    with database.autocommit() as connection:
        connection.exec_driver_sql("insert into things values (2)")
    assert things() == [2]


def test_a_session_whose_connection_was_terminated_is_an_unknown_outcome(postgres, database, things):
    with pytest.raises(DatabaseAway), database.session() as session:
        session.execute(text("insert into things values (1)"))
        terminate(postgres, session.execute(text("select pg_backend_pid()")).scalar_one())
    with database.session() as session:
        session.execute(text("insert into things values (2)"))
    assert things() == [2]


def test_a_reply_that_is_lost_after_the_commit_is_an_unknown_outcome(postgres, cutter, make_database, things):
    database = make_database(postgres.url("orders").replace(str(postgres.port), str(cutter.port)))
    with pytest.raises(DatabaseAway), database.autocommit() as connection:
        connection.exec_driver_sql("select 1")
        cutter.cutting = True
        connection.exec_driver_sql("insert into things values (1)")
    assert things() == [1]
    cutter.cutting = False
    with database.session() as session:
        session.execute(text("insert into things values (2)"))
    assert things() == [1, 2]
    with pytest.raises(DatabaseAway), database.session() as session:
        session.execute(text("insert into things values (3)"))
        session.commit()  # which also shows that a session may end twice
        session.execute(text("insert into things values (4)"))
        cutter.cutting = True
        session.commit()
    wait_for(lambda: things() == [1, 2, 3, 4], 5, "the commit whose reply was lost")
    cutter.cutting = False
    with database.session() as session:
        session.execute(text("insert into things values (5)"))


def test_a_server_that_refuses_or_keeps_silent_is_an_outage(make_database):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = make_database(f"postgresql+psycopg2://postgres@127.0.0.1:{port}/orders", DB_TIMEOUT_S=0.1)
        with pytest.raises(DatabaseAway, match="did not answer"), database.autocommit():
            pass
    with pytest.raises(DatabaseAway), database.session() as session:
        session.execute(text("select 1"))


def test_workers_share_connections_and_leave_a_few_to_the_rest(postgres, make_database):
    database = make_database(postgres.url("orders"), DB_TIMEOUT_S=0.5, DB_CONNECTIONS=2)
    worker = Sessions(database)
    with ExitStack() as of_workers, ExitStack() as of_others:
        for _ in range(2):
            of_workers.enter_context(worker.autocommit())
        for way in (worker.autocommit, worker.get_session):
            with pytest.raises(DATABASE_DOWN, match="no connection of DB_CONNECTIONS was free for 0.5 s"), way():
                pass
        for _ in range(OTHERS):
            of_others.enter_context(database.autocommit())
        with pytest.raises(DATABASE_DOWN), database.autocommit():
            pass
    with worker.autocommit(), worker.get_session() as session:
        session.execute(text("select 1"))


def test_a_worker_gives_its_turn_back_whatever_happens(postgres, make_database):
    database = make_database(postgres.url("orders"), DB_TIMEOUT_S=0.5, DB_CONNECTIONS=1)
    worker = Sessions(database)
    for way in (worker.autocommit, worker.get_session):
        with pytest.raises(sqlalchemy.exc.ProgrammingError), way() as connection:
            connection.execute(text("select nothing"))
        with pytest.raises(Timeout), Timeout(0.02), way() as connection:
            connection.execute(text("select pg_sleep(1)"))
    with worker.autocommit() as connection:
        assert connection.execute(text("select 1")).scalar() == 1


def test_who_has_waited_for_a_turn_comes_before_who_gives_one_back_and_wants_another(postgres, make_database):
    worker = Sessions(make_database(postgres.url("orders"), DB_CONNECTIONS=1))
    done: list[str] = []

    def work(name: str, times: int) -> None:
        for _ in range(times):
            with worker.autocommit() as connection:
                connection.execute(text("select pg_sleep(0.01)"))
            done.append(name)

    both = [eventlet.spawn(work, "greedy", 9), eventlet.spawn(work, "modest", 1)]
    for one in both:
        one.wait()
    assert done[:2] == ["greedy", "modest"]


@pytest.mark.parametrize("code", ["08006", "25006", "25P03", "40003", "53100", "53300", "57P01", "57P03", "58030"])
@pytest.mark.parametrize("way", ["autocommit", "session"])
def test_a_server_that_can_do_nothing_is_left(database, code, way):
    with database.autocommit() as connection:
        other = backend(connection)
    with pytest.raises(DatabaseAway) as caught, getattr(database, way)() as connection:
        connection.execute(text(RAISE.format(code)))
    assert isinstance(caught.value, OUTCOME_UNKNOWN)
    assert not isinstance(caught.value, NOTHING_DONE)
    assert from_exception(caught.value, {}).view.status == 503
    with database.autocommit() as connection:
        assert backend(connection) != other


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014"])
@pytest.mark.parametrize("way", ["autocommit", "session"])
def test_what_the_server_rolled_back_may_be_tried_again(database, code, way):
    with pytest.raises(TryAgain) as caught, getattr(database, way)() as connection:
        connection.execute(text(RAISE.format(code)))
    assert isinstance(caught.value, NOTHING_DONE)
    assert isinstance(caught.value, TEMPORARY)
    assert not isinstance(caught.value, OUTCOME_UNKNOWN)
    assert from_exception(caught.value, {}).headers["Retry-After"]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into things values (1), (1)",
        "select 1 / 0",
        "select nothing",
        RAISE.format("25P02"),
        RAISE.format("0A000"),
        RAISE.format("P0001"),
    ],
)
@pytest.mark.parametrize("way", ["autocommit", "session"])
def test_an_error_that_the_server_answers_means_that_nothing_was_done(database, statement, way):
    with pytest.raises(NOTHING_DONE) as caught, getattr(database, way)() as connection:
        connection.execute(text(statement))
    assert not isinstance(caught.value, TEMPORARY)
    assert from_exception(caught.value, {}).view.status == 500


@pytest.mark.parametrize("code", ["26000", "54001", "55000"])
def test_any_other_error_is_neither_an_outage_nor_proof(database, code):
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught, database.autocommit() as connection:
        connection.execute(text(RAISE.format(code)))
    assert not isinstance(caught.value, TEMPORARY)


def test_an_error_of_the_driver_proves_nothing(database, things):
    with pytest.raises(DriverFailed) as caught, database.autocommit() as connection:
        connection.exec_driver_sql("select %s", (object(),))
    assert not isinstance(caught.value, NOTHING_DONE + OUTCOME_UNKNOWN)
    with pytest.raises(ValueError) as caught, database.autocommit() as connection:
        connection.exec_driver_sql("insert into things values (1) returning '10000-01-01'::date").scalar()
    assert not isinstance(caught.value, NOTHING_DONE + OUTCOME_UNKNOWN)
    assert things() == [1]


def test_a_statement_that_takes_too_long_may_be_tried_again(postgres, make_database, things):
    database = make_database(postgres.url("orders"), DB_TIMEOUT_S=0.2)
    with pytest.raises(TryAgain), database.autocommit() as connection:
        connection.exec_driver_sql("insert into things select 1 from pg_sleep(5)")
    assert things() == []


def test_a_server_that_falls_silent_is_given_up_and_is_an_outage(postgres, make_database):
    database = make_database(postgres.url("orders"), DB_TIMEOUT_S=0.2)
    with pytest.raises(DatabaseAway), Timeout(10, ValueError()), database.autocommit() as connection:
        connection.exec_driver_sql("set statement_timeout = 0")  # it does not give up by itself
        connection.exec_driver_sql("select pg_sleep(20)")


def test_a_session_is_one_transaction_also_after_single_statements(database, things):
    with database.autocommit() as connection:
        single = backend(connection)
    with pytest.raises(ZeroDivisionError), database.session() as session:
        assert backend(session.connection()) == single
        session.execute(text("insert into things values (1)"))
        session.flush()
        raise ZeroDivisionError
    assert things() == []


def test_a_deadline_that_breaks_into_a_statement_costs_its_connection_only(database, things):
    with database.autocommit() as connection:
        first = backend(connection)
        with database.autocommit() as other:
            second = backend(other)
    with pytest.raises(Unavailable), database.session() as session:
        broken = session.execute(text("select pg_backend_pid()")).scalar_one()
        with Timeout(0.1, Unavailable("too late")):
            session.execute(text("insert into things select 1 from pg_sleep(0.5)"))
    with database.autocommit() as connection, database.autocommit() as other:
        assert {first, second} - {backend(connection), backend(other)} == {broken}


def test_a_session_that_goes_on_after_it_lost_its_connection_is_an_outage(postgres, database):
    with pytest.raises(DATABASE_DOWN) as caught, database.session() as session:
        terminate(postgres, session.execute(text("select pg_backend_pid()")).scalar_one())
        for _ in range(2):
            try:
                session.execute(text("select 1"))
            except DatabaseAway:
                pass
    assert from_exception(caught.value, {}).view.status == 503


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Postgres]]:
    """Two servers, of which the first is read-only."""
    folders = tmp_path_factory.mktemp("pair")
    with Postgres(folders / "one") as one, Postgres(folders / "two") as two:
        set_read_only(one, True)
        yield one, two


def test_of_several_hosts_the_writable_one_is_taken_also_after_a_failover(pair, make_database):
    one, two = pair
    database = make_database(
        with_driver(f"postgresql://postgres@/postgres?host=127.0.0.1:{one.port}&host=localhost:{two.port}")
    )

    def port() -> int:
        with database.autocommit() as connection:
            connection.exec_driver_sql("create table if not exists writable ()")
            return int(connection.exec_driver_sql("show port").scalar_one())

    assert port() == two.port
    set_read_only(one, False)
    set_read_only(two, True)
    with pytest.raises(DatabaseAway):
        port()
    assert port() == one.port
    set_read_only(one, True)
    set_read_only(two, False)
    with pytest.raises(DatabaseAway):
        port()
    assert port() == two.port


def test_a_host_that_is_silent_leaves_time_for_the_next(pair, make_database):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = make_database(
            with_driver(f"postgresql://postgres@/postgres?host=127.0.0.1:{port}&host=127.0.0.1:{pair[1].port}"),
            DB_TIMEOUT_S=0.5,
        )
        with database.autocommit() as connection:
            assert int(connection.exec_driver_sql("show port").scalar_one()) == pair[1].port


def test_a_read_only_database_is_an_outage_on_every_connection(pair, make_database):
    database = make_database(pair[0].url("postgres"))
    with pytest.raises(DatabaseAway), database.autocommit() as connection:
        first = backend(connection)
        with database.autocommit() as other:
            second = backend(other)
            other.exec_driver_sql("create table never ()")
    with database.autocommit() as connection, database.autocommit() as other:
        assert {first, second}.isdisjoint({backend(connection), backend(other)})
    careful = make_database(with_driver(pair[0].url("postgres")))
    with pytest.raises(DatabaseAway, match="read-only"), careful.autocommit():
        pass


@pytest.mark.parametrize(
    "statement",
    [
        "insert into letters values (:secret), (:secret)",
        "insert into letters values (:secret || null)",
        "select cast(:secret as integer)",
        "select nothing from letters where body = :secret",
        "insert into letters select :secret from pg_sleep(5)",
        "select :secret from pg_terminate_backend(pg_backend_pid())",
    ],
)
@pytest.mark.parametrize("way", ["autocommit", "session"])
def test_an_error_holds_no_value_of_a_statement(postgres, make_database, caplog, statement, way):
    database = make_database(postgres.url("orders"), DB_TIMEOUT_S=0.2)
    try:
        with getattr(database, way)() as connection:
            connection.execute(text(statement), {"secret": SECRET})
    except sqlalchemy.exc.DBAPIError:
        logging.getLogger("services").exception("failed")
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text
