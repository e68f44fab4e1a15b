"""A migration that waits for a table lets the others at it meanwhile, and does not wait for ever."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from services.kit.db import migrations
from services.local.net import wait_for
from services.local.postgres import Postgres
from services.ops import migrate
from tests.standby import plain

NEXT = '''
"""A table is changed."""
from alembic import op

revision, down_revision, branch_labels, depends_on = "next", {head!r}, None, None


def upgrade() -> None:
    op.execute("create table if not exists before ()")
    op.execute("alter table orders add column colour text")
'''
WITH_INDEX = '''
"""A table has one more index."""
from services.kit.db.migrations import build_index

revision, down_revision, branch_labels, depends_on = "next", {head!r}, None, None


def upgrade() -> None:
    build_index("orders_by_price", "orders", ["price"])
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of orders at its newest version but one."""
    name = f"orders_{abs(hash(request.node.name))}"
    server.ensure_databases([name])
    migrate.upgrade("orders", server.url(name))
    with closing(connect(server.url(name))) as connection, connection.cursor() as cursor:
        cursor.execute(f"select version_num from {migrations.VERSION_TABLE}")
        [(head,)] = cursor.fetchall()
    content = getattr(request, "param", NEXT)
    (tmp_path / "next.py").write_text(content.format(head=head))
    original = migrations.configuration

    def configuration(*of: Any) -> Any:
        config = original(*of)
        folders = config.get_main_option("version_locations")
        config.set_main_option("version_locations", f"{folders}\n{tmp_path}")
        return config

    monkeypatch.setattr(migrations, "configuration", configuration)
    return server.url(name)


def connect(url: str) -> Any:
    connection = psycopg2.connect(plain(url))
    connection.autocommit = True
    return connection


def test_others_get_at_a_table_while_a_migration_waits_for_it(url: str):
    with closing(connect(url)) as reader, closing(connect(url)) as other:
        holding, asking = reader.cursor(), other.cursor()
        holding.execute("begin")
        holding.execute("select count(*) from orders")
        migration = threading.Thread(target=migrate.upgrade, args=("orders", url), daemon=True)
        migration.start()
        asking.execute("set statement_timeout = '3s'")
        waits = "select true from pg_locks where not granted and mode = 'AccessExclusiveLock'"
        for _ in range(2):
            wait_for(lambda: asking.execute(waits) or asking.fetchone(), 20, "the migration to wait for the table")
            asking.execute("select count(*) from orders")
        assert migration.is_alive()
        holding.execute("rollback")
        migration.join(20)
        asking.execute("select colour from orders")


def test_a_migration_that_gets_no_lock_gives_up_in_one_line_and_leaves_nothing(url: str, monkeypatch):
    monkeypatch.setattr(migrations, "LOCK_S", 0.2)
    monkeypatch.setattr(migrations, "PAUSE_S", 0.1)
    monkeypatch.setattr(migrations, "PATIENCE_S", 0.5)
    with closing(connect(url)) as reader, closing(connect(url)) as other:
        holding, asking = reader.cursor(), other.cursor()
        holding.execute("begin")
        holding.execute("select count(*) from orders")
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="^orders: a migration needs a lock .* for 0.5 s$"):
            migrate.upgrade("orders", url)
        assert time.monotonic() - started < 5
        left = "select to_regclass('before'), count(*) from pg_locks where locktype = 'advisory'"
        # the server ends the session of the migration a moment after it has closed its connection
        wait_for(lambda: asking.execute(left) or asking.fetchone() == (None, 0), 5, "nothing to be left")


def test_a_migration_waits_for_another_one_and_gives_up(url: str, monkeypatch):
    monkeypatch.setattr(migrations, "PATIENCE_S", 0.5)
    with closing(connect(url)) as first:
        first.cursor().execute("select pg_advisory_lock(7016996765293437281)")
        with pytest.raises(TimeoutError):
            migrate.upgrade("orders", url)


def test_the_command_says_it_in_one_line(server: Postgres, url: str):
    code = (
        "import sys; from services.kit.db import migrations; migrations.PATIENCE_S = 0.2; "
        "from services.ops import cli; sys.argv = ['nameko-hw', 'migrate', 'orders']; sys.exit(cli.main())"
    )
    with closing(connect(url)) as first:
        first.cursor().execute("select pg_advisory_lock(7016996765293437281)")
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"ORDERS_DATABASE_URL": url, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode != 0
    assert run.stderr.strip().splitlines()[-1].startswith("nameko-hw: orders: a migration needs a lock")
    assert "Traceback" not in run.stderr


def test_a_database_that_a_newer_version_has_migrated_stays_as_it_is(url: str, caplog: pytest.LogCaptureFixture):
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"update {migrations.VERSION_TABLE} set version_num = 'later'")
        migrate.upgrade("orders", url)
        cursor.execute(f"select version_num from {migrations.VERSION_TABLE}")
        assert cursor.fetchall() == [("later",)]
    assert "orders: the database is of a newer version" in caplog.text


@pytest.mark.parametrize("url", [WITH_INDEX], indirect=True)
def test_others_write_while_an_index_is_built_and_what_a_failed_build_left_is_replaced(url: str):
    order = (
        "insert into orders (id, user_id, price, status, retry_at) "
        "values (gen_random_uuid(), gen_random_uuid(), 1, 'pending', now())"
    )
    index = "select indisvalid, indisunique from pg_index where indexrelid = to_regclass('orders_by_price')"
    with closing(connect(url)) as writer, closing(connect(url)) as other:
        holding, asking = writer.cursor(), other.cursor()
        for _ in range(2):
            asking.execute(order)
        with pytest.raises(psycopg2.errors.UniqueViolation):
            asking.execute("create unique index concurrently orders_by_price on orders (price)")
        asking.execute(index)
        assert asking.fetchone() == (False, True)
        holding.execute("begin")
        holding.execute(order)
        migration = threading.Thread(target=migrate.upgrade, args=("orders", url), daemon=True)
        migration.start()
        asking.execute("set statement_timeout = '3s'")
        waits = "select true from pg_locks where not granted and pid <> pg_backend_pid()"
        wait_for(lambda: asking.execute(waits) or asking.fetchone(), 20, "the migration to wait for the writer")
        asking.execute(order)
        holding.execute("commit")
        migration.join(20)
        asking.execute(index)
        assert asking.fetchone() == (True, False)
