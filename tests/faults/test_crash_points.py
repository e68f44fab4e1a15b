"""Every service dies right before and right after every commit, publish and acknowledgement, and loses the reply to
it; nothing is lost and nothing is doubled.

Each round plans this of every service at some points, two deaths and a lost reply at each, keeps the system busy until
all of it has happened, waits until it is quiet, and checks the books and what clients were promised. Some give no
Idempotency-Key, and so must not see their requests done twice though they cannot say which are the same.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import requests
from kombu.exceptions import KombuError
from sqlalchemy import text

from services.local import supervisor
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from services.shop import SERVICES
from tests.books import add_pending_users, broken_promises, database, rows, violations, wait_until_quiet
from tests.broker import dead_letters, fill_inbox, publish
from tests.client import Api
from tests.commands import audit
from tests.faults.points import Lines, Point, all_points
from tests.load import Load

DIED_S = 120
POINTS_A_ROUND = 3  # of each service, one after the other: to wait until all is quiet takes its time
#: Events that no queue takes, and that no broker does, so that their leases are given back.
NOBODY_HEARS, NOBODY_CAN_SEND = "order_dreamt_of", "x" * 300

NEVER_DONE = UUID(int=1)
#: ... as billing refuses such a price, and the table such a user once it is no longer pending.
NEVER_FINISHED = [
    ("orders", "user_id, price", f"gen_random_uuid(), {10**15}"),
    ("users", "name, email", "'Nobody', 'nobody@example.com'"),
]
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
}


def rounds() -> list[dict[str, list[Point]]]:
    """All points, so many of each service a round."""
    by_service = {service: [point for point in all_points() if point.service == service] for service in SERVICES}
    return [
        {service: points[first : first + POINTS_A_ROUND] for service, points in by_service.items() if points[first:]}
        for first in range(0, max(map(len, by_service.values())), POINTS_A_ROUND)
    ]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, whose services can be told where to die."""
    folder = tmp_path_factory.mktemp("mortal")
    plans = folder / "plans"
    plans.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "LONGEST_PAUSE_S", 0.2)
        nameko = (sys.executable, "-m", "tests.faults.crashing")
        with Stack(folder, free_port(), SETTINGS | {"CRASH_PLAN_FOLDER": str(plans)}, nameko=nameko) as running:
            with database(running, "users") as connection:
                connection.execute(text(NOBODY_STAYS_PENDING))
            yield running


def test_the_points_are_those_of_the_flow():
    names = {str(point) for point in all_points()}
    for expected in (
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
    ):
        assert expected in names, "\n".join(sorted(names))


def test_a_place_that_nobody_can_reach_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.faults.points.SERVICES", ("users", "billing", "orders"))
    with pytest.raises(AssertionError, match="nobody runs .*services/(kit/amqp/events|notifications/service).py"):
        all_points()


def names_of(round_: dict[str, list[Point]]) -> str:
    return "; ".join(str(point) for points in round_.values() for point in points)


@pytest.mark.parametrize("round_", rounds(), ids=names_of)
def test_deaths_and_lost_replies_at_any_point_lose_and_double_nothing(mortal: Stack, round_: dict[str, list[Point]]):
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
    for service in ("users", "orders"):
        rows(
            mortal,
            service,
            f"""insert into outbox (event_id, type, body)
            values (gen_random_uuid(), '{NOBODY_HEARS}', '{{}}'),
                   (gen_random_uuid(), '{NOBODY_CAN_SEND}', '{{}}') returning 1""",
        )
    [not_open] = add_pending_users(mortal, 1, "infinity")
    with Load(mortal.url, clients=1, keyless=1) as load:
        wait_for(
            lambda: poke(mortal, not_open) and not any(plan.exists() for plan in plans), DIED_S, "all that was planned"
        )
    wait_for(mortal.is_ready, 60, "all services to be back")
    for service in ("users", "orders"):
        rows(
            mortal,
            service,
            f"""delete from outbox
            where type in ('{NOBODY_HEARS}', '{NOBODY_CAN_SEND}') returning 1""",
        )
        rows(mortal, service, f"delete from {service} where id = :id returning 1", id=NEVER_DONE)
    rows(mortal, "users", "update users set retry_at = now() where id = :id returning 1", id=not_open)
    wait_until_quiet(mortal)
    assert load.failures == []
    assert violations(mortal) == []
    assert broken_promises(mortal, load.sent) == []


def planned(phase: str, point: Point, lines: Lines) -> str:
    """What `crashing` is told."""
    return f"{phase} {point.file} {lines.first} {lines.last}"


def poke(stack: Stack, not_open: str) -> bool:
    """Use what the load does not: every other request, a user without an account, an order and a user that recovery
    can never finish, an event and an RPC request that are none."""
    for table, columns, values in NEVER_FINISHED:
        rows(
            stack,
            table,
            f"""insert into {table} (id, status, retry_at, {columns})
                               values (:id, 'pending', now() - interval '1 s', {values})
                               on conflict (id) do update set retry_at = excluded.retry_at returning 1""",
            id=NEVER_DONE,
        )
    with suppress(requests.RequestException, KeyError), Api(stack.url) as api:
        orders = api.get("/orders?limit=1").json()["items"]
        user_id = orders[0]["user_id"] if orders else str(uuid4())
        account = f"/billing/accounts/{user_id}"
        for path in (
            f"/orders/{orders[0]['id'] if orders else user_id}",
            f"/users/{user_id}",
            "/notifications?limit=1",
            account,
            f"{account}/operations?limit=1",
        ):
            api.get(path)
        api.post("/notifications", {"user_id": user_id, "subject": "Hello", "body": ""}, str(uuid4()))
        api.post("/orders", {"user_id": user_id, "price": 10**12}, str(uuid4()))
        for nobody in (not_open, str(uuid4())):
            api.post("/orders", {"user_id": nobody, "price": 1}, str(uuid4()))
        for _service, [port] in stack.ports.items():
            with suppress(requests.RequestException), Api(f"http://127.0.0.1:{port}") as direct:
                direct.get("/health/ready")
        for method in ("get_account", "open_account"):
            publish(stack, "nameko-rpc", f"billing.{method}", {"args": [user_id], "kwargs": {}}, reply_to="nobody")
    with suppress(KombuError, OSError):
        publish(stack, "orders.events", "order_paid", {"price": "nothing"})
        for method in ("billing.pay", "users.known_users"):
            publish(stack, "nameko-rpc", method, "nonsense")
    fill_inbox(stack)
    return True


def test_a_death_between_two_statements_of_a_round_leaves_what_the_first_has_decided(mortal: Stack):
    """Of two payments of one account the first is refused, so the second is decided by a statement after it."""
    [statement] = [point for point in all_points() if point.kind == "statement"]
    user_id, ids = str(uuid4()), [str(uuid4()) for _ in range(2)]
    rows(mortal, "billing", "insert into accounts values (:id, 10) returning 1", id=user_id)
    plan = mortal.folder / "plans" / "billing"
    plan.write_text(planned("after", statement, statement.lines))
    payments = [
        {"operation_id": id_, "user_id": user_id, "amount": amount} for id_, amount in zip(ids, (11, 10), strict=True)
    ]
    call = {"args": [], "kwargs": {"payments": payments, "wait": False}}
    publish(mortal, "nameko-rpc", "billing.pay_all", call, reply_to="nobody")
    query = "select id::text, outcome, created_at from operations where user_id = :id order by created_at"
    wait_for(lambda: len(rows(mortal, "billing", query, id=user_id)) == 2, DIED_S, "both payments")
    decided = rows(mortal, "billing", query, id=user_id)
    assert not plan.exists()
    assert [(row.id, row.outcome) for row in decided] == [(ids[0], "insufficient_funds"), (ids[1], "accepted")]
    assert decided[1].created_at - decided[0].created_at > timedelta(seconds=0.2), "the process has died in between"
    rows(mortal, "billing", "delete from operations where user_id = :id returning 1", id=user_id)
    rows(mortal, "billing", "update accounts set balance = 0 where user_id = :id returning 1", id=user_id)


def test_the_audit_is_clean_after_all_these_deaths(mortal: Stack, tmp_path: Path):
    report = audit(mortal)
    assert "clean: no violations" in report
    assert dead_letters(mortal, "order_paid")
    assert dead_letters(mortal, "order_rejected") == dead_letters(mortal, "user_registered") == []
