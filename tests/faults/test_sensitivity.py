"""The tests can fail: with one safeguard taken out, the books are wrong and the audit says so."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.local.net import free_port, wait_for
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.sabotage import SCHEMA
from services.local.stack import Stack, database_variable
from services.shop import DEFAULT_STYLE, SERVICES, STYLES, Style
from tests.books import database, rows
from tests.client import Api
from tests.commands import nameko_hw
from tests.faults.test_crash_points import SETTINGS

SEEN_S = 20


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, Postgres]]:
    """The servers of all the sabotaged stacks, each of which has databases of its own."""
    folder = tmp_path_factory.mktemp("servers")
    with RabbitMQ(folder / "rabbitmq") as rabbitmq, Postgres(folder / "postgres") as postgres:
        yield rabbitmq, postgres


@contextmanager
def sabotaged(what: str, style: Style, servers: tuple[RabbitMQ, Postgres], folder: Path) -> Iterator[Stack]:
    """A stack without one of its safeguards."""
    rabbitmq, postgres = servers
    databases = {service: f"{service}_{what}_{style.name}" for service in SERVICES}
    postgres.ensure_databases(databases.values())
    (folder / "plans").mkdir()
    settings = SETTINGS | {
        "CRASH_PLAN_FOLDER": str(folder / "plans"),
        "SABOTAGE_FOLDER": str(folder / "plans"),
        "SABOTAGE": what,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMQP_URI", rabbitmq.uri)
        for service, name in databases.items():
            patch.setenv(database_variable(service), postgres.url(name))
        nameko = (sys.executable, "-m", "tests.faults.crashing")
        with Stack(folder, free_port(), settings, nameko=nameko, style=style) as running:
            for service, statement in SCHEMA[what]:
                with database(running, service) as connection:
                    connection.execute(text(statement))
            yield running


def tell_of_what_is_not_so(stack: Stack, api: Api, user_id: str) -> None:
    """Die between the event of an order and its status: they should be in the same commit."""
    between = stack.folder / "plans" / "between"
    between.touch()
    api.order(user_id, 1)
    wait_for(lambda: not between.exists(), SEEN_S, "the death")
    wait_for(api.is_ready, SEEN_S, "orders to be back")


def finish_an_order_many_times(stack: Stack, api: Api, user_id: str) -> None:
    """Send some orders, each many times at once: only one of the requests should finish it."""
    keys = [str(uuid4()) for _ in range(5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: api.order(user_id, 1, key), [key for key in keys for _ in range(8)]))


def repeat_the_events(stack: Stack, api: Api, user_id: str) -> None:
    """Publish an event again: the inbox should drop it."""
    api.order(user_id, 1)
    api.letters(user_id, 1)
    again = """update outbox set published_at = null, claimed_until = '-infinity'
               where published_at is not null returning 1"""
    wait_for(lambda: rows(stack, "orders", again), SEEN_S, "the event to be marked as published")


def in_styles(what: str, provoke: Callable[[Stack, Api, str], None], says: str, *styles: str) -> list[Any]:
    """Return a case for each of the styles; the default one is always tried."""
    return [
        pytest.param(
            style,
            what,
            provoke,
            says,
            id=f"{style.name}-{what}",
            marks=() if style.name == DEFAULT_STYLE else pytest.mark.styles,
        )
        for style in map(STYLES.__getitem__, (DEFAULT_STYLE, *styles))
    ]


@pytest.mark.parametrize(
    "style, what, provoke, says",
    [
        *in_styles("inbox", repeat_the_events, "its letters are ['order_paid', 'order_paid'", "http", "events"),
        *in_styles("outbox", tell_of_what_is_not_so, "was told of 2 times", "http"),
        *in_styles("operation", finish_an_order_many_times, "there is no such order", "http"),
        *in_styles("pending", finish_an_order_many_times, "was told of", "http"),
    ],
)
def test_the_audit_sees_what_is_wrong_without(
    servers: tuple[RabbitMQ, Postgres],
    tmp_path: Path,
    style: Style,
    what: str,
    provoke: Callable[[Stack, Api, str], None],
    says: str,
):
    with sabotaged(what, style, servers, tmp_path) as stack, Api(stack.url) as api:
        user_id = api.new_user(balance=100)["id"]
        assert nameko_hw(stack, "audit").returncode == 0
        provoke(stack, api, user_id)
        report = wait_for(lambda: failed_audit(stack), SEEN_S, "the audit to find the violation")
        assert "VIOLATION" in report and says in report


def failed_audit(stack: Stack) -> str:
    report = nameko_hw(stack, "audit", "--patience", "2")
    return report.stdout if report.returncode == 1 else ""
