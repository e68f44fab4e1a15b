"""The queues of events, of requests and of replies: how Nameko names them, and of which type they are."""

from typing import Any

from services.kit.config import QueueType
from services.kit.event import Event

#: How often a quorum queue delivers a message again before it drops it: practically for ever. RabbitMQ's own limit, 20
#: since 4.0, would lose an event in an outage of a database. No limit at all is -1 in 4, which 3 refuses.
DELIVERY_LIMIT = 2**31 - 1


def handler_queue(service: str, method: str, event: type[Event]) -> str:
    """Return the name of the queue from which all replicas of `service` handle `event` by `method`.

    It is the name that Nameko's `EventHandler.setup` gives the queue of a SERVICE_POOL.
    """
    return f"evt-{event.SOURCE}-{event.TYPE}--{service}.{method}"


def arguments_of(type_: QueueType) -> dict[str, Any]:
    """Return the arguments with which a queue of this type is declared. A classic one has none, as Nameko's."""
    return {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT} if type_ == "quorum" else {}
