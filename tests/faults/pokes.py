"""Reach the crash points that clients do not: rows and events that cannot be finished, and nonsense."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import requests
from kombu.exceptions import KombuError

from services.kit.amqp.queues import handler_queue
from services.kit.outbox.table import OutboxRow
from services.local.stack import Stack
from services.shop import services_with
from tests.books import rows
from tests.broker import NOBODY, fill_inbox, handlers, publish
from tests.client import Api

MARK = "a test"  # stands in the events that this puts into the outboxes
#: For all outboxes, by transport: events that no queue takes and that no broker does, or that cannot be delivered, so
#: that their leases are given back.
STUCK: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "amqp": [("order_dreamt_of", {}), ("x" * 300, {})],
    "http": [("order_paid", {})],
}
#: ... for that of billing, which has less to tell in two styles: events that arrive, and are nobody's.
NOT_STUCK: dict[str, tuple[str, dict[str, Any]]] = {
    "amqp": ("payment_refused", {"order_id": NOBODY, "user_id": NOBODY, "price": 1, "reason": "operation_mismatch"}),
    "http": ("user_registered", {"user_id": NOBODY, "email": "nobody@example.com"}),
}

NEVER_DONE = UUID(int=1)
#: ... as billing refuses such a price, and the table such a user once it is no longer pending; and no event can be made
#: of either.
NEVER_FINISHED = [
    ("orders", "user_id, price", f"gen_random_uuid(), {10**15}"),
    ("users", "name, email", "'Nobody', 'nobody'"),
]


def add_stuck_events(stack: Stack) -> None:
    for service in services_with(OutboxRow):
        for type_, body in STUCK[stack.style.transport]:
            add_event(stack, service, type_, body)


def remove_pokes(stack: Stack) -> None:
    """Remove the rows and events that can never be finished."""
    for service in services_with(OutboxRow):
        rows(stack, service, "delete from outbox where body ->> 'by' = :mark returning 1", mark=MARK)
    for table, _, _ in NEVER_FINISHED:
        rows(stack, table, f"delete from {table} where id = :id returning 1", id=NEVER_DONE)


def add_event(stack: Stack, service: str, type_: str, body: dict[str, Any]) -> None:
    """Put an event into the outbox of a service."""
    event = {"event_id": str(uuid4()), "by": MARK} | body
    rows(
        stack,
        service,
        "insert into outbox (event_id, type, body) values (:id, :type, cast(:body as jsonb)) returning 1",
        id=event["event_id"],
        type=type_,
        body=json.dumps(event),
    )


def let_overdue(stack: Stack) -> bool:
    """Let payments whose account will never come have waited for it long enough."""
    waiting = {one.user_id for one in rows(stack, "billing", "select user_id from waiting_payments")}
    users = {one.id for one in rows(stack, "users", "select id from users where id = any(:ids)", ids=list(waiting))}
    rows(
        stack,
        "billing",
        "update waiting_payments set since = '-infinity' where user_id = any(:ids) returning 1",
        ids=list(waiting - users),
    )
    return True


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
    add_event(stack, "billing", *NOT_STUCK[stack.style.transport])
    with suppress(requests.RequestException, KeyError), Api(stack.url) as api:
        orders = api.get("/orders?limit=1").json()["items"]
        user_id = orders[0]["user_id"] if orders else str(uuid4())
        wait_for_nothing(api)
        account = f"/billing/accounts/{user_id}"
        for path in (
            f"/orders/{orders[0]['id'] if orders else user_id}",
            f"/users/{user_id}",
            "/users?limit=1",
            "/notifications?limit=1",
            f"/notifications/{user_id}",
            account,
            f"{account}/operations?limit=1",
            f"{account}/operations/{user_id}",
            "/events?after=beginning&limit=1",
        ):
            api.get(path)
        # it is closed at once, and followed until the next heartbeat shows that
        api.request("GET", "/events", headers={"Accept": "text/event-stream"}, stream=True).close()
        api.post("/notifications", {"user_id": user_id, "subject": "Hello", "body": ""}, str(uuid4()))
        api.post("/orders", {"user_id": user_id, "price": 10**12}, str(uuid4()))
        for nobody in (not_open, str(uuid4())):
            api.post("/orders", {"user_id": nobody, "price": 1}, str(uuid4()))
        for _service, [port] in stack.ports.items():
            with suppress(requests.RequestException), Api(f"http://127.0.0.1:{port}") as direct:
                direct.get("/health/ready")
    if stack.style.has_broker:
        with suppress(KombuError, OSError):
            send_nonsense(stack)
    fill_inbox(stack)
    return let_overdue(stack)


def wait_for_nothing(api: Api) -> None:
    """Wait for what does not end: an order and a user that are pending, and a new order of nobody."""
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(api.get, f"/{table}/{NEVER_DONE}", wait_s=1) for table, _, _ in NEVER_FINISHED]
        waiting.append(pool.submit(api.post, "/orders", {"user_id": str(uuid4()), "price": 1}, str(uuid4()), wait_s=1))
    for one in waiting:
        one.result()


def send_nonsense(stack: Stack) -> None:
    """Send an event that cannot be read to a handler of each service; and RPC requests, most of which are none."""
    for service, [(method, event), *_] in handlers(stack.style).items():
        publish(stack, "", handler_queue(service, method, event), {"price": "nothing"})
    if stack.style.name == "broker":
        for (user_id,) in rows(stack, "users", "select id from users where status = 'active' limit 1"):
            for method in ("get_account", "open_account"):
                call = {"args": [str(user_id)], "kwargs": {}}
                publish(stack, "nameko-rpc", f"billing.{method}", call, reply_to="nobody")
        for method in ("billing.pay", "users.known_users"):
            publish(stack, "nameko-rpc", method, "nonsense")
