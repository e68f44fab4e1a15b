"""The style of a running system is changed under load, in every direction; nothing is lost and nothing is doubled.

Before each change notifications hangs, and then billing, so that letters are owed and orders are pending; these two are
killed then, and the others are asked to stop. The next style finds all of it: what the broker has, the outboxes and the
pending rows.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from services.kit.outbox.table import OutboxRow
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from services.shop import STYLES, services_with
from tests.books import broken_promises, one, violations, wait_until_quiet
from tests.commands import audit
from tests.conftest import QUICK
from tests.faults.test_draining import suspended
from tests.faults.versions import shared_servers
from tests.load import Load

SETTINGS = QUICK | {"OUTBOX_LEASE_S": "3", "PUBLISH_TIMEOUT_S": "2", "ACCOUNT_WAIT_S": "60"}
LOADED_S = 30
ORDERS = 20
PAUSE_S = 0.02  # of each client
CHANGES = list(permutations(STYLES, 2))
OTHER_EVENTS = [("events", "broker")]
OTHER_TRANSPORT = [("broker", "http")]


LEFT = {
    "orders": ("orders", "select count(*) from orders where status = 'pending'"),
    "events": ("orders", "select count(*) from orders where status = 'paid'"),
    "letters": ("notifications", "select count(*) from letters where kind = 'order_paid'"),
}


def changes(always: list[tuple[str, str]]) -> list[Any]:
    """Return all six changes, of which some are `always` tried."""
    return [
        pytest.param(*one, id="-to-".join(one), marks=() if one in always else pytest.mark.styles) for one in CHANGES
    ]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The servers, whose data the styles share, and a folder; every Stack that is started meanwhile uses them."""
    folder = tmp_path_factory.mktemp("styles")
    with shared_servers(folder):
        yield folder


@pytest.mark.parametrize("before, after", changes(OTHER_EVENTS))
def test_changing_the_style_loses_and_doubles_nothing(servers: Path, before: str, after: str):
    port = free_port()
    old = Stack(servers / before, port, SETTINGS, style=STYLES[before])
    new = Stack(servers / after, port, SETTINGS, style=STYLES[after])
    with ExitStack() as at_end:
        at_end.callback(new.stop)
        at_end.callback(old.stop)
        old.start()
        with Load(old.url, clients=2, keyless=2, pause_s=PAUSE_S) as load:
            wait_until_loaded(load)
            leave_work(old)
            old.stop()
            left = {what: one(old, *of) for what, of in LEFT.items()}
            new.start()
            wait_until_loaded(load)
        assert left["orders"] > 0 and left["events"] > left["letters"], left
        check(new, load)


@pytest.mark.parametrize("before, after", changes(OTHER_TRANSPORT))
def test_both_styles_can_run_at_once_while_the_one_replaces_the_other(servers: Path, before: str, after: str):
    old = Stack(servers / before, free_port(), SETTINGS, style=STYLES[before])
    new = Stack(servers / after, free_port(), SETTINGS, style=STYLES[after])
    with ExitStack() as at_end:
        at_end.callback(new.stop)
        at_end.callback(old.stop)
        old.start()
        with Load(old.url, clients=1, keyless=1, seed=1, pause_s=PAUSE_S) as load_of_old:
            wait_until_loaded(load_of_old)
            new.start()
            with Load(new.url, clients=1, keyless=1, seed=2, pause_s=PAUSE_S) as load_of_new:
                wait_until_loaded(load_of_new)
                wait_until_loaded(load_of_old)
                load_of_old.__exit__()
                kill(old, "orders", "notifications")
                old.stop()
                wait_until_loaded(load_of_new)
        check(new, load_of_old, load_of_new)


def wait_until_loaded(load: Load) -> None:
    """Wait until some more orders were paid."""
    paid = load.counted["paid"]
    wait_for(lambda: load.counted["paid"] > paid + ORDERS, LOADED_S, "the load to run")


def leave_work(stack: Stack) -> None:
    """Let letters be owed and orders be pending, and kill those who would see to that."""
    pids = [stack.supervisor.pid(service) for service in ("notifications", "billing")]
    with ExitStack() as hung:
        for pid, query in zip(pids, (LEFT["events"], LEFT["orders"]), strict=True):
            assert pid is not None
            hung.enter_context(suspended(pid))
            before = one(stack, *query)
            wait_for(lambda query=query, before=before: one(stack, *query) > before, LOADED_S, "work that waits")
        kill(stack, "notifications", "billing")


def kill(stack: Stack, *services: str) -> None:
    for service in services:
        pid = stack.supervisor.pid(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def check(stack: Stack, *loads: Load) -> None:
    """Wait until the system is quiet; then the books are right, and clients have got what they were promised."""
    wait_until_quiet(stack)
    for load in loads:
        assert load.failures == []
        assert broken_promises(stack, load.sent) == []
    assert violations(stack) == []
    audit(stack)
    for service in services_with(OutboxRow):
        assert one(stack, service, "select name from outbox_transport") == stack.style.transport
