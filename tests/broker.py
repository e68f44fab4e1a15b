"""What tests do at the broker itself, and what they find of events that failed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from kombu import Connection, Queue

from services.contracts import OrderPaid, OrderRejected, UserRegistered
from services.kit.amqp.queues import handler_queue
from services.local.stack import Stack
from tests.books import rows

#: The queue of each event in the style broker: notifications handles them all.
HANDLERS = {
    event.TYPE: Queue(handler_queue("notifications", f"on_{event.TYPE}", event))
    for event in (UserRegistered, OrderPaid, OrderRejected)
}


@contextmanager
def channel(stack: Stack) -> Iterator[Any]:
    with Connection(stack.amqp_uri) as connection, connection.channel() as one:
        yield one


def publish(stack: Stack, exchange: str, routing_key: str, body: Any, **options: Any) -> None:
    """Publish `body` as JSON, or with the content type in `options`."""
    if "content_type" not in options:
        body = json.dumps(body)
        options |= {"content_type": "application/json", "content_encoding": "utf-8"}
    with Connection(stack.amqp_uri) as connection:
        connection.Producer().publish(body, exchange=exchange, routing_key=routing_key, **options)


def dead_letters(stack: Stack, event: str) -> list[Any]:
    """Remove the dead letters of the handler of `event`, which are rows of the inbox, and return them."""
    return [
        SimpleNamespace(**{**row._mapping, "body": bytes(row.body)})
        for row in rows(
            stack,
            "notifications",
            """
        delete from inbox where handler = :handler and next_attempt_at is null returning *""",
            handler=f"on_{event}",
        )
    ]


def failing(stack: Stack) -> list[Any]:
    """Return the rows of the inbox that are to be tried again."""
    return rows(stack, "notifications", "select * from inbox where next_attempt_at is not null order by id")


def fill_inbox(stack: Stack) -> None:
    """Make two events due: one that was handled before, and one that cannot be read."""
    for id_, email in rows(stack, "users", "select id, email from users where status = 'active' limit 1"):
        event = {"event_id": str(id_), "user_id": str(id_), "email": email}
        make_due(stack, "on_user_registered", json.dumps(event).encode())
    make_due(stack, "on_order_paid", b'{"price": "little"}')


def make_due(stack: Stack, handler: str, body: bytes) -> None:
    rows(
        stack,
        "notifications",
        """
        insert into inbox (handler, key, body, content_type, content_encoding, headers, attempts, reason,
                           next_attempt_at)
        values (:handler, 'a test', :body, 'application/json', 'utf-8', '{}', 1, 'a test', now())
        on conflict (handler, key) do update set next_attempt_at = now() returning 1""",
        handler=handler,
        body=body,
    )
