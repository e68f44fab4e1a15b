"""The names of queues, as Nameko makes them."""

from services.kit.event import Event


def handler_queue(service: str, method: str, event: type[Event]) -> str:
    """Return the name of the queue from which all replicas of `service` handle `event` by `method`.

    It is the name that Nameko's `EventHandler.setup` gives the queue of a SERVICE_POOL.
    """
    return f"evt-{event.SOURCE}-{event.TYPE}--{service}.{method}"
