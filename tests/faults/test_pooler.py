"""The services behind a PgBouncer in transaction mode: the same answers, deadlines and outcomes."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg2
import pytest
from sqlalchemy import text

from services.kit.errors import DatabaseAway, TryAgain
from services.local.net import wait_for
from tests.books import broken_promises, one, violations, wait_until_quiet
from tests.commands import audit
from tests.conftest import QUICK
from tests.integration.test_database import make_database
from tests.load import Load
from tests.pooler import CONNECTIONS, WAITS_S, PooledStack
from tests.standby import plain

pytestmark = pytest.mark.long
__all__ = ["make_database"]  # a fixture
READY_S = 60
PAID = 30


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PooledStack]:
    with PooledStack(tmp_path_factory.mktemp("pooled"), QUICK) as running:
        yield running


def test_a_crowd_is_served_while_the_pooler_dies_and_the_database_restarts_behind_it(pooled: PooledStack):
    def go_on(what: str) -> None:
        so_far = load.counted["paid"]
        wait_for(lambda: load.counted["paid"] > so_far + PAID, READY_S, f"orders to be paid {what}")

    with Load(pooled.url, clients=8, keyless=4) as load:
        go_on("through the pooler")
        os.kill(pooled.pooler.pid, signal.SIGKILL)
        wait_for(lambda: not pooled.pooler.running, READY_S, "the pooler to be dead")
        pooled.pooler.start()
        go_on("after its death")
        pooled.postgres.stop()
        pooled.postgres.start()
        go_on("after the restart of the database")
    assert load.failures == []
    assert {what for what in load.counted if what.startswith("answered")} <= {"answered 503"}
    wait_for(pooled.is_ready, READY_S, "the services to be ready")
    wait_until_quiet(pooled)
    assert violations(pooled) == []
    assert broken_promises(pooled, load.sent) == []
    audit(pooled)


def test_every_statement_carries_the_deadlines_of_the_session(pooled: PooledStack, make_database):
    database = make_database(pooled.pooler.url("orders"), DB_BEHIND_POOLER=True)
    shown = "select current_setting('statement_timeout'), current_setting('enable_seqscan')"
    with database.autocommit() as connection:
        assert connection.exec_driver_sql(shown).one() == ("1s", "off")
        with pytest.raises(TryAgain):
            connection.exec_driver_sql("select pg_sleep(5)")
    with database.session() as session:
        assert session.execute(text(shown)).one() == ("1s", "off")
        session.execute(text("select 1"))
    assert one(pooled, "orders", "show statement_timeout") == "0"  # nothing was set up at the server


def test_what_the_pooler_itself_refuses_is_an_unknown_outcome(pooled: PooledStack, make_database):
    url = pooled.pooler.url("postgres")
    database = make_database(url, DB_BEHIND_POOLER=True, DB_TIMEOUT_S=WAITS_S + 3)
    with ExitStack() as held:
        for _ in range(CONNECTIONS):  # an open transaction holds a connection to the server
            connection = held.enter_context(closing(psycopg2.connect(plain(url))))
            connection.cursor().execute("select 1")
        with pytest.raises(DatabaseAway, match="query_wait_timeout"), database.autocommit() as waiting:
            waiting.exec_driver_sql("select 1")
