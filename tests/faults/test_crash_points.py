"""In each style, every service dies right before and right after every commit, publish, call and acknowledgement, and
loses the reply to it; nothing is lost and nothing is doubled.

Each round plans this of every service at some points, two deaths and a lost reply at each, keeps the system busy until
all of it has happened, waits until it is quiet, and checks the books and what clients were promised. Some give no
Idempotency-Key, and so must not see their requests done twice though they cannot say which are the same.
"""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.local import supervisor
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from services.shop import DEFAULT_STYLE, SERVICES, STYLES, Style
from tests.books import QUIET_S, add_pending_users, broken_promises, database, is_quiet, rows, violations
from tests.broker import dead_letters, handlers, publish
from tests.commands import audit
from tests.faults.points import Lines, Point, all_points
from tests.faults.pokes import add_stuck_events, let_overdue, poke, remove_pokes
from tests.load import Load

DIED_S = 120
POINTS_A_ROUND = 3  # of each service, one after the other: to wait until all is quiet takes its time
#: The default style comes last, as a test of it follows.
IN_TURN = sorted(STYLES.values(), key=lambda style: style.name == DEFAULT_STYLE)

NOBODY_STAYS_PENDING = "alter table users add constraint nobody check (name <> 'Nobody' or status = 'pending')"

#: Recovery as quick as the deadlines allow.
SETTINGS = {
    "RPC_TIMEOUT_S": "0.8",
    "REQUEST_TIMEOUT_S": "2",
    "DB_TIMEOUT_S": "1",
    "PUBLISH_TIMEOUT_S": "1",
    "OUTBOX_LEASE_S": "1.5",
    "OUTBOX_INTERVAL_S": "0.3",
    "RECOVERY_AFTER_S": "2.1",
    "RECOVERY_INTERVAL_S": "0.3",
    "DRAIN_TIMEOUT_S": "4",
    "EVENT_RETRY_PAUSES_S": "[0.2, 0.4, 0.8]",
    "INBOX_INTERVAL_S": "0.3",
    "INBOX_LEASE_S": "1.5",
    "ACCOUNT_WAIT_S": "60",  # longer than some deaths can hold up the event of a user; see `let_overdue`
}


def rounds(style: Style) -> Iterator[Any]:
    """All points of a style, so many of each service a round; those that the default style has as well come last."""
    default = STYLES[DEFAULT_STYLE]
    known = set() if style == default else {str(point) for point in all_points(default)}
    for is_known, marks in ((False, ()), (True, (pytest.mark.styles,))):
        points = [point for point in all_points(style) if (str(point) in known) == is_known]
        by_service = [[point for point in points if point.service == service] for service in SERVICES]
        for first in range(0, max(map(len, by_service)), POINTS_A_ROUND):
            round_ = {its[0].service: its[first : first + POINTS_A_ROUND] for its in by_service if its[first:]}
            yield pytest.param(style, round_, marks=marks, id=f"{style.name}: {names_of(round_)}")


def names_of(round_: dict[str, list[Point]]) -> str:
    return "; ".join(str(point) for points in round_.values() for point in points)


class Mortals:
    """The stack in one style at a time, whose services can be told where to die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: Stack | None = None

    def of(self, style: Style) -> Stack:
        """Return the stack in this style; stop that of another one."""
        if self.running is None or self.running.style != style:
            self.stop()
            plans = self.folder / style.name / "plans"
            plans.mkdir(parents=True)
            settings = SETTINGS | {"CRASH_PLAN_FOLDER": str(plans)}
            nameko = (sys.executable, "-m", "tests.faults.crashing")
            stack = Stack(plans.parent, free_port(), settings, nameko=nameko, style=style)
            stack.start()
            self.running = stack
            with database(stack, "users") as connection:
                connection.execute(text(NOBODY_STAYS_PENDING))
        return self.running

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None


@pytest.fixture(scope="module")
def mortals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortals]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "LONGEST_PAUSE_S", 0.2)
        all_of_them = Mortals(tmp_path_factory.mktemp("mortal"))
        try:
            yield all_of_them
        finally:
            all_of_them.stop()


FLOW = {
    "broker": (
        "orders: commit in services/orders/service.py:AskingOrders._store#1",
        "orders: commit in services/orders/service.py:AskingOrders._end#1",
        "billing: commit in services/billing/service.py:AskedBilling._pay_all#1",
        "notifications: commit in services/notifications/service.py:Notifications._add_paid#1",
        "orders: publish in services/kit/amqp/rpc.py:RpcProxy.call#1",
        "billing: acknowledge in services/kit/amqp/rpc.py:RpcConsumer.handle_result#1",
        "orders: publish in services/kit/amqp/transport.py:AmqpTransport.send#1",
        "notifications: acknowledge in services/kit/amqp/events.py:EventHandler._finish#1",
        "notifications: commit in services/kit/inbox/provider.py:Inbox.keep#1",
        "notifications: acknowledge in services/kit/amqp/events.py:EventHandler._keep#1",
        "notifications: commit in services/kit/inbox/provider.py:Inbox.succeeded#1",
        "notifications: commit in services/kit/inbox/provider.py:Inbox.failed#1",
    ),
    "http": (
        "orders: call in services/kit/web/client.py:HttpProxy._call#1",
        "orders: call in services/kit/web/transport.py:HttpTransport._deliver#1",
        "users: commit in services/users/http.py:UsersService.get_known#1",
    ),
    "events": (
        "orders: commit in services/orders/events.py:OrdersService._store#1",
        "billing: commit in services/billing/events.py:BillingService._pay#1",
        "billing: acknowledge in services/kit/amqp/events.py:EventHandler._finish#1",
        "orders: commit in services/orders/events.py:OrdersService._end#1",
    ),
}


@pytest.mark.parametrize("style", FLOW)
def test_the_points_are_those_of_the_flow(style: str):
    names = {str(point) for point in all_points(STYLES[style])}
    for expected in FLOW[style]:
        assert expected in names, "\n".join(sorted(names))


def test_a_place_that_nobody_can_reach_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.faults.points.SERVICES", ("users", "billing", "orders"))
    only_there = "services/(kit/amqp/events|kit/feed|notifications/service).py"
    with pytest.raises(AssertionError, match=f"nobody runs .*{only_there}"):
        all_points()


@pytest.mark.parametrize("style, round_", [one for style in IN_TURN for one in rounds(style)])
def test_deaths_and_lost_replies_at_any_point_lose_and_double_nothing(
    mortals: Mortals, style: Style, round_: dict[str, list[Point]]
):
    mortal = mortals.of(style)
    plans = [mortal.folder / "plans" / service for service in round_]
    for plan, points in zip(plans, round_.values(), strict=True):
        plan.write_text(
            "\n".join(
                line
                for point in points
                for line in (
                    planned("before", point, point.lines),
                    planned("after", point, point.lines),
                    planned("lost", point, point.work),
                )
            )
        )
    add_stuck_events(mortal)
    [not_open] = add_pending_users(mortal, 1, "infinity")
    with Load(mortal.url, clients=1, keyless=1, pause_s=0.03) as load:
        wait_for(
            lambda: poke(mortal, not_open) and not any(plan.exists() for plan in plans), DIED_S, "all that was planned"
        )
    wait_for(mortal.is_ready, 60, "all services to be back")
    remove_pokes(mortal)
    rows(mortal, "users", "update users set retry_at = now() where id = :id returning 1", id=not_open)
    wait_for(lambda: let_overdue(mortal) and is_quiet(mortal), QUIET_S, "the system to become quiet")
    assert load.failures == []
    assert violations(mortal) == []
    assert broken_promises(mortal, load.sent) == []
    assert "clean: no violations" in audit(mortal)
    for service, [first, *others] in handlers(style).items():
        wait_for(lambda of=(first.event.TYPE, service): dead_letters(mortal, *of), QUIET_S, "what cannot be read")
        assert [dead_letters(mortal, one.event.TYPE, service) for one in others] == [[]] * len(others)


def planned(phase: str, point: Point, lines: Lines) -> str:
    """What `crashing` is told."""
    return f"{phase} {point.file} {lines.first} {lines.last}"


def test_a_death_between_two_statements_of_a_round_leaves_what_the_first_has_decided(mortals: Mortals):
    """The second payment of an account is refused for the sake of the first: a statement after it decides the third."""
    mortal = mortals.of(STYLES[DEFAULT_STYLE])
    [statement] = [point for point in all_points() if point.kind == "statement"]
    user_id, ids = str(uuid4()), [str(uuid4()) for _ in range(3)]
    rows(mortal, "billing", "insert into accounts values (:id, 10) returning 1", id=user_id)
    plan = mortal.folder / "plans" / "billing"
    plan.write_text(planned("after", statement, statement.lines))
    payments = [
        {"operation_id": id_, "user_id": user_id, "amount": amount} for id_, amount in zip(ids, (6, 6, 4), strict=True)
    ]
    call = {"args": [], "kwargs": {"payments": payments, "wait": False}}
    publish(mortal, "nameko-rpc", "billing.pay_all", call, reply_to="nobody")
    query = "select id::text, outcome, created_at from operations where user_id = :id order by created_at"
    wait_for(lambda: len(rows(mortal, "billing", query, id=user_id)) == 3, DIED_S, "all payments")
    decided = rows(mortal, "billing", query, id=user_id)
    assert not plan.exists()
    assert [row.id for row in decided] == ids
    assert [row.outcome for row in decided] == ["accepted", "insufficient_funds", "accepted"]
    assert decided[2].created_at - decided[1].created_at > timedelta(seconds=0.02), "the process has died in between"
    rows(mortal, "billing", "delete from operations where user_id = :id returning 1", id=user_id)
    rows(mortal, "billing", "update accounts set balance = 0 where user_id = :id returning 1", id=user_id)
