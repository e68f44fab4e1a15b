"""What tests do at the broker itself, and what they find of events that failed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

from kombu import Connection, Queue

from services.contracts import OrderPaid, OrderRejected, UserRegistered
from services.kit.amqp.events import EventHandler
from services.kit.amqp.queues import handler_queue
from services.kit.event import Event
from services.local.stack import Stack
from services.ops.openapi import entrypoints
from services.shop import SERVICES, Style, service_class
from tests.books import rows

NOBODY = str(UUID(int=2))

#: The queue of each event in the style broker: notifications handles them all.
HANDLERS = {
    event.TYPE: Queue(handler_queue("notifications", f"on_{event.TYPE}", event))
    for event in (UserRegistered, OrderPaid, OrderRejected)
}


class Handler(NamedTuple):
    """A method of a service that handles an event."""

    method: str
    event: type[Event]


def handlers(style: Style) -> dict[str, list[Handler]]:
    """Return the event handlers of each service that has any in a style."""
    found: dict[str, list[Handler]] = {}
    for service in SERVICES:
        for method, entrypoint in entrypoints(service_class(service, style), EventHandler):
            found.setdefault(service, []).append(Handler(method.__name__, entrypoint.event))
    return found


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


def dead_letters(stack: Stack, event: str, service: str = "notifications") -> list[Any]:
    """Remove the dead letters of the handler of `event`, which are rows of the inbox, and return them."""
    return [
        SimpleNamespace(**{**row._mapping, "body": bytes(row.body)})
        for row in rows(
            stack,
            service,
            """
        delete from inbox where handler = :handler and next_attempt_at is null returning *""",
            handler=f"on_{event}",
        )
    ]


def failing(stack: Stack) -> list[Any]:
    """Return the rows of the inbox that are to be tried again."""
    return rows(stack, "notifications", "select * from inbox where next_attempt_at is not null order by id")


#: A handler of each service with an inbox, for an event of a user.
OF_A_USER = {"notifications": "on_user_registered", "billing": "on_user_registered", "users": "on_account_opened"}


def fill_inbox(stack: Stack) -> None:
    """Make two events due in each inbox: one that was handled before or is nobody's, and one that cannot be read."""
    users = rows(stack, "users", "select id, email from users where status = 'active' limit 1")
    for service, its in handlers(stack.style).items():
        if service in OF_A_USER:
            for id_, email in users:
                event = {"event_id": str(id_), "user_id": str(id_), "email": email}
                make_due(stack, OF_A_USER[service], json.dumps(event).encode(), service)
        else:
            event = {"order_id": NOBODY, "user_id": NOBODY, "price": 1}
            make_due(stack, "on_payment_accepted", json.dumps(event).encode(), service)
        make_due(stack, its[0].method, b'{"price": "little"}', service)


def make_due(stack: Stack, handler: str, body: bytes, service: str = "notifications") -> None:
    rows(
        stack,
        service,
        """
        insert into inbox (handler, key, body, content_type, content_encoding, headers, attempts, reason,
                           next_attempt_at)
        values (:handler, md5(:body), :body, 'application/json', 'utf-8', '{}', 1, 'a test', now())
        on conflict (handler, key) do update set next_attempt_at = now() returning 1""",
        handler=handler,
        body=body,
    )
