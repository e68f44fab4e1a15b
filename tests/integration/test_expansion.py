"""Migrations only add to what the released version works with, and let it work while they run."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import alembic.command
import psycopg2
import pytest
import sqlalchemy
from alembic.script import ScriptDirectory

from services.kit.db import migrations
from services.kit.db.migrations import FORMER_VERSION_TABLE, VERSION_TABLE
from services.local.postgres import Postgres
from services.ops import migrate
from services.shop import SERVICES
from tests.standby import plain

#: The versions of the databases of 0.1.0.
RELEASED = {"users": "0003", "billing": "0001", "orders": "0003", "notifications": "0002"}

#: Tables of 0.1.0 that may get columns: none of its prepared statements returns all columns of them.
MAY_GROW = {"outbox", "inbox", FORMER_VERSION_TABLE}

#: Services whose sessions a migration ends: in the next ones all statements are prepared anew.
NEW_SESSIONS = {"notifications"}

TABLES = "select relname, relfilenode from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"

#: What reads a whole table while nobody can write to it.
BLOCKING = re.compile(
    r"create (unique )?index (?!concurrently)"
    r"|alter table \S+ add (constraint|unique|check|primary key|foreign key)(?!.*(using index|not valid))"
    r"|alter table \S+ alter column \S+ (type|set not null)",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(server: Postgres, service: str, request: pytest.FixtureRequest) -> str:
    """The database of a service as 0.1.0 has made it."""
    name = f"{service}_{abs(hash(request.node.name))}"
    server.ensure_databases([name])
    alembic.command.upgrade(configuration(service, server.url(name)), RELEASED[service])
    with cursor(server.url(name)) as asking:
        asking.execute(f"alter table {VERSION_TABLE} rename to {FORMER_VERSION_TABLE}")
    return server.url(name)


def configuration(service: str, url: str) -> Any:
    return migrations.configuration(url, *migrate.of(service))


@contextmanager
def cursor(url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(plain(url))) as connection:
        connection.autocommit = True
        yield connection.cursor()


def rows(asking: Any, query: str) -> dict[str, Any]:
    asking.execute(query)
    return dict(asking.fetchall())


@contextmanager
def executed() -> Iterator[list[str]]:
    """The statements that are executed meanwhile, by whomever."""
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(" ".join(statement.split()))

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_no_migration_rewrites_a_table_or_keeps_its_writers_waiting(url: str, service: str):
    config = configuration(service, url)
    newer = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    for revision in sorted(one for one in newer if one > RELEASED[service]):
        with cursor(url) as asking:
            before = rows(asking, TABLES)
            with executed() as statements:
                alembic.command.upgrade(config, revision)
            after = rows(asking, TABLES)
        assert {table: after.get(table) for table in before} == before, f"{revision} rewrites or removes a table"
        on_them = re.compile(rf"\b({'|'.join(before)})\b")
        blocking = [one for one in statements if BLOCKING.match(one) and on_them.search(one)]
        assert blocking == [], f"{revision}: build_index lets the others write"


def test_no_statement_that_the_released_version_has_prepared_fails_for_good(url: str, service: str):
    with cursor(url) as asking:
        tables = rows(asking, TABLES).keys() - MAY_GROW
        asking.execute(f"set application_name = {service}")
        for table in tables:
            asking.execute(f"prepare all_of_{table} as select * from {table}")
            asking.execute(f"execute all_of_{table}")
        migrate.upgrade(service, url)
        with pytest.raises(psycopg2.OperationalError) if service in NEW_SESSIONS else nullcontext():
            for table in tables:
                asking.execute(f"execute all_of_{table}")  # "cached plan must not change result type", if it has grown


def test_the_released_version_finds_its_own_version_when_it_migrates(url: str, service: str):
    migrate.upgrade(service, url)
    head = ScriptDirectory.from_config(configuration(service, url)).get_current_head()
    with cursor(url) as asking:
        asking.execute(f"select a.version_num, b.version_num from {FORMER_VERSION_TABLE} a, {VERSION_TABLE} b")
        assert asking.fetchall() == [(RELEASED[service], head)]
