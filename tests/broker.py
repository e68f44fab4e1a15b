"""What tests do at the broker itself."""
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import Connection, Message, Queue

from services.common.events import dead_queue
from services.local.stack import Stack

HANDLERS = {
    "order_paid": Queue("evt-orders-order_paid--notifications.on_order_paid"),
    "order_rejected": Queue("evt-orders-order_rejected--notifications.on_order_rejected"),
    "user_registered": Queue("evt-users-user_registered--notifications.on_user_registered"),
}


@contextmanager
def channel(stack: Stack) -> Iterator[Any]:
    with Connection(stack.amqp_uri) as connection, connection.channel() as one:
        yield one


def publish(stack: Stack, exchange: str, routing_key: str, body: Any, **options: Any) -> None:
    """Publish `body` as JSON, or as the content type in `options` says."""
    if "content_type" not in options:
        body = json.dumps(body)
        options |= {"content_type": "application/json", "content_encoding": "utf-8"}
    with Connection(stack.amqp_uri) as connection:
        connection.Producer().publish(body, exchange=exchange, routing_key=routing_key, **options)


def dead_letters(stack: Stack, event: str) -> list[Message]:
    """Take the dead letters of the handler of `event`."""
    with channel(stack) as one:
        queue = dead_queue(HANDLERS[event])(one)
        queue.declare()
        found = []
        while (message := queue.get(no_ack=True)) is not None:
            found.append(message)
        return found
