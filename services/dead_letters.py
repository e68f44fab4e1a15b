"""Dead letters: the events that could not be handled, kept with the reason, to be replayed or dropped.

Everything here asks the broker of the running system. A letter that is looked at stays where it is: it is taken
without an acknowledgement, and the broker has it back when the channel closes.
"""
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kombu import Connection, Message, Queue
from nameko.extensions import ENTRYPOINT_EXTENSIONS_ATTR

from services.common.events import ATTEMPT, DEAD_ID, DIED_AT, REASON, EventHandler, dead_queue
from services.common.publisher import ConfirmedChannel
from services.common.publisher import Message as Letter
from services.notifications.service import NotificationsService

TIMEOUT_S = 10
OURS = (ATTEMPT, REASON, DEAD_ID, DIED_AT)


@dataclass(frozen=True)
class DeadLetter:
    """An event in a dead-letter queue; `queue` is the one that it was meant for."""

    queue: Queue
    message: Message

    @property
    def id(self) -> str:
        return str(self.message.headers.get(DEAD_ID, "-"))

    def line(self) -> str:
        """The letter on one line."""
        headers = self.message.headers
        return (f"{self.id}  {headers.get(DIED_AT, '-')}  {self.queue.name}  "
                f"{headers.get(REASON, 'unknown')} ({headers.get(ATTEMPT, 0)} failed attempts)")

    def details(self) -> str:
        """The letter in full."""
        about = {"id": self.id, "queue": self.queue.name, "headers": dict(self.message.headers)}
        return json.dumps(about, indent=2, default=str) + "\n" + self.text()

    def text(self) -> str:
        """The body, as far as it is text."""
        body = self.message.body
        return body if isinstance(body, str) else bytes(body).decode("utf-8", "backslashreplace")


def queues() -> list[Queue]:
    """The queues of all event handlers, as Nameko names them."""
    return [
        Queue(f"evt-{entrypoint.source_service}-{entrypoint.event_type}--{NotificationsService.name}.{name}")
        for name, method in vars(NotificationsService).items()
        for entrypoint in getattr(method, ENTRYPOINT_EXTENSIONS_ATTR, ())
        if isinstance(entrypoint, EventHandler)
    ]


@contextmanager
def opened(uri: str) -> Iterator[list[DeadLetter]]:
    """All dead letters. Those that are not acknowledged meanwhile go back to their queues at the end."""
    with Connection(uri, connect_timeout=TIMEOUT_S) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        with connection.channel() as channel:
            yield [DeadLetter(queue, message) for queue in queues() for message in _take(dead_queue(queue)(channel))]


def _take(queue: Any) -> Iterator[Message]:
    queue.declare()
    while (message := queue.get(no_ack=False)) is not None:
        yield message


def replay(uri: str, letters: list[DeadLetter]) -> None:
    """Give each letter to its handler once more, with all its attempts; it is gone only when that is confirmed."""
    channel = ConfirmedChannel(uri, TIMEOUT_S)
    try:
        for letter in letters:
            message = letter.message
            headers = {name: value for name, value in message.headers.items() if name not in OURS}
            encoded = {"content_type": message.content_type, "content_encoding": message.content_encoding}
            body = message.body.encode() if isinstance(message.body, str) else message.body
            [taken] = channel.publish([Letter(bytes(body), letter.queue, headers=headers, encoded=encoded)], TIMEOUT_S)
            if taken:
                message.ack()
    finally:
        channel.connection.release()
