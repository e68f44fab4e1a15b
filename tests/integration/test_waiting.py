"""Waiting for rows of a real database to end, also while the database is not there."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import eventlet
import psycopg2
import pytest
from eventlet import Timeout
from psycopg2 import extensions
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.config import check
from services.kit.db.database import Database
from services.kit.tracing import Tracer
from services.kit.waiting import Ends
from services.local.postgres import Postgres
from tests.standby import plain
from tests.unit.kit.test_config import config

LONG_S, SHORT_S = 10, 0.2


class Base(DeclarativeBase): ...


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str]


class ThingView(BaseModel, from_attributes=True):
    id: UUID
    status: str


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(["things"])
        run(server, "create table things (id uuid primary key, status text)")
        yield server


def run(server: Postgres, statement: str, *values: Any) -> None:
    """Run a statement as another process would."""
    connection = psycopg2.connect(plain(server.url("things")))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
    finally:
        connection.close()


@pytest.fixture
def ends(postgres: Postgres) -> Iterator[Ends]:
    database = Database(Base)
    database.container = SimpleNamespace(
        tracer=Tracer(),
        settings=check({**config(), "DB_TIMEOUT_S": 1}),
        service_name="unit",
        config={"DB_URIS": {"unit:Base": postgres.url("things")}},
    )
    database.setup()
    ends = Ends(Thing, ThingView, ended=("paid", "rejected"))
    ends.container = SimpleNamespace(
        service_name="unit", dependencies=[database], spawn_managed_thread=lambda run, identifier: eventlet.spawn(run)
    )
    ends.setup()
    yield ends
    database.stop()
    extensions.set_wait_callback(None)


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_row_that_another_process_ends_is_returned(postgres: Postgres, ends: Ends, is_cut: bool):
    """Also when every connection of the service is cut meanwhile."""
    one, other = uuid4(), uuid4()
    for id_ in (one, other):
        run(postgres, "insert into things values (%s, 'pending')", str(id_))
    assert ends.wait(one, SHORT_S) is None, "it is pending"
    waiting = eventlet.spawn(ends.wait, one, LONG_S)
    eventlet.sleep(SHORT_S)
    if is_cut:
        run(postgres, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'unit'")
    run(postgres, "update things set status = 'rejected' where id = %s", str(one))
    with Timeout(LONG_S, AssertionError("it has ended, and nobody noticed")):
        assert waiting.wait() == ThingView(id=one, status="rejected")
        assert ends.wait(one, LONG_S).status == "rejected", "it has ended before"
    assert ends.wait(other, SHORT_S) is None
