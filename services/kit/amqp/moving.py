"""Changing the type of queues, which the broker cannot: what is in them waits in a queue of another name meanwhile.

The services are stopped: their events wait in the outboxes. Each step can be done again, so what a crash leaves is
finished by the next call. A message is acknowledged when its copy is confirmed, so a crash may leave both.

A queue is deleted together with the messages that somebody has taken and not acknowledged. These cannot be seen from
here, so nobody may have any: neither a service that still drains, nor one who moves queues, see `hold`.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed, ResourceLocked
from kombu import Connection, Queue

from services.kit.amqp.message import Message
from services.kit.amqp.publisher import ConfirmedChannel

HOLD = "queues.moving"  # a queue of one connection, which ends with it
SUFFIX = ".moving"  # of the other name
BATCH = 200
CONFIRM_S = 30
FREE_S = 5  # until the broker has noticed that whoever consumed from a queue, or moved queues, has gone
RETURNED_S = 1  # until what a connection had taken is back in its queue, once the broker has noticed its end
PAUSE_S = 0.1


class CannotMove(Exception):
    """A queue is in use, or the broker does not take a message; nothing is lost."""


def hold(connection: Connection) -> None:
    """Be the only one who moves queues, until the end of `connection`. Raise CannotMove while somebody else is.

    Somebody may also be a process that has died, or was cut off, unless the broker has noticed: it still has messages.
    """
    busy = "somebody else moves queues, or was cut off from the broker, which notices within two minutes"
    _wait_until(lambda: _declare_hold(connection), busy)
    time.sleep(RETURNED_S)


def move(connection: Connection, queue: Queue, keeps: bool = True) -> int | None:
    """Have `queue` be of the type that it is declared with; return the number of its messages, None if it was already.

    What waits in it is dropped unless it `keeps` it. Raise CannotMove, or an error of the broker: call it again then,
    with a connection that has the `hold`, as this one should.
    """
    waiting_room = Queue(queue.name + SUFFIX, durable=True, queue_arguments=queue.queue_arguments)
    is_other = not _declare(connection, queue)
    if is_other:
        _take_out_of_use(connection, queue)
        if keeps:
            _carry(connection, queue.name, waiting_room)
        with connection.channel() as channel:
            channel.queue_delete(queue.name)
        _declare(connection, queue)
    if not _exists(connection, waiting_room.name):
        return 0 if is_other else None
    carried = _carry(connection, waiting_room.name, queue)
    with connection.channel() as channel:
        channel.queue_delete(waiting_room.name)
    return carried


def _declare_hold(connection: Connection) -> bool:
    """Declare the queue of who moves queues; return False if another connection has it."""
    try:
        with connection.channel() as channel:
            channel.queue_declare(HOLD, exclusive=True, auto_delete=False)
    except ResourceLocked:
        return False
    return True


def _wait_until(is_free: Callable[[], bool], busy: str) -> None:
    """Wait until something is free; raise CannotMove, which says that it is `busy`, after FREE_S."""
    deadline = time.monotonic() + FREE_S
    while not is_free():
        if time.monotonic() > deadline:
            raise CannotMove(busy)
        time.sleep(PAUSE_S)


def _declare(connection: Connection, queue: Queue) -> bool:
    """Declare a queue with its binding; return False if there is one of another type."""
    try:
        with connection.channel() as channel:
            queue.bind(channel).declare()
    except PreconditionFailed:
        return False
    return True


def _exists(connection: Connection, name: str) -> bool:
    try:
        with connection.channel() as channel:
            channel.queue_declare(name, passive=True)
    except NotFound:
        return False
    return True


def _take_out_of_use(connection: Connection, queue: Queue) -> None:
    """Unbind a queue that nobody consumes from, so that nothing comes into it that would be deleted with it."""
    with connection.channel() as channel:
        _wait_until(
            lambda: not channel.queue_declare(queue.name, passive=True).consumer_count,
            f"{queue.name} is in use: stop the services first",
        )
        queue.exchange.bind(channel).declare()
        channel.queue_unbind(queue.name, queue.exchange.name, queue.routing_key)


def _carry(connection: Connection, source: str, to: Queue) -> int:
    """Carry all messages from one queue to another; return how many they were."""
    channel = ConfirmedChannel(connection)
    channel.channel.auto_decode = False  # bodies stay as they are
    carried = 0
    try:
        while batch := list(_get(channel.channel, source)):
            if not all(channel.publish([_copy(message, to) for message in batch], CONFIRM_S)):
                raise CannotMove(f"{to.name} does not take the messages of {source}")
            channel.channel.basic_ack(batch[-1].delivery_info["delivery_tag"], multiple=True)
            carried += len(batch)
    finally:
        if connection.connected:
            channel.channel.close()
    return carried


def _get(channel: Any, queue: str) -> Iterator[Any]:
    for _ in range(BATCH):
        if (message := channel.basic_get(queue)) is None:
            return
        yield message


def _copy(message: Any, to: Queue) -> Message:
    """Return a message as it was, but for how often it was delivered, and its priority, which no queue of ours has."""
    properties = dict(message.properties)
    properties.pop("priority", None)
    headers = dict(properties.pop("application_headers", {}))
    headers.pop("x-delivery-count", None)
    names = ("content_type", "content_encoding")
    encoded = {name: properties.pop(name) for name in names if name in properties}
    return Message(bytes(message.body), to, headers=headers, properties=properties, encoded=encoded)
