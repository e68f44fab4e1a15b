"""Messages that the broker has confirmed.

One connection a process, opened when it is needed and thrown away at the first doubt: after an error or a
deadline a late confirm could otherwise be taken for the one of the next message.
(RabbitMQ manual, "Consumer Acknowledgements and Publisher Confirms".)
"""
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from amqp.exceptions import AMQPError
from eventlet import Timeout
from eventlet.semaphore import Semaphore
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError
from kombu.serialization import dumps
from nameko.extensions import SharedExtension

from services.common.problems import Unavailable

BROKER_DOWN = (AMQPError, KombuError, OSError)
T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """What to send and where: to an exchange with a routing key, or right to a queue; both are declared first.

    `properties` are AMQP's; a message is persistent unless they say otherwise.
    """

    body: Any
    to: Exchange | Queue
    routing_key: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, str] | None = None  # content type and encoding of a body that is bytes already


class Publisher(SharedExtension):
    """Publishes batches on one channel in confirm mode."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = Semaphore()
        self._channel: ConfirmedChannel | None = None

    def publish(self, messages: Sequence[Message]) -> list[bool]:
        """Send `messages`; say of each whether the broker took it and routed it to a queue.

        Returns when each of them is confirmed. Unavailable after PUBLISH_TIMEOUT_S, or when the broker is
        away: then any of them may have been sent.
        """
        return self._work(lambda channel, timeout_s: channel.publish(messages, timeout_s))

    def ask(self) -> None:
        """Ask the broker for a sign of life; Unavailable without one."""
        self._work(lambda channel, timeout_s: channel.connection.channel().close())

    def _work(self, work: Callable[["ConfirmedChannel", float], T]) -> T:
        """Do `work` on the channel, on a new one if it turns out that the old one had died while it was idle."""
        timeout_s = self.container.settings.PUBLISH_TIMEOUT_S
        with Timeout(timeout_s, Unavailable("the broker did not answer in time")), self._turn:
            if self._channel is not None:
                was_idle = not self._channel.under_way
                try:
                    return self._try(work, timeout_s)
                except BROKER_DOWN as error:
                    if not was_idle:
                        raise Unavailable("the broker went away") from error
            try:
                return self._try(work, timeout_s)
            except BROKER_DOWN as error:
                raise Unavailable("the broker is away") from error

    def _try(self, work: Callable[["ConfirmedChannel", float], T], timeout_s: float) -> T:
        if self._channel is None:
            self._channel = ConfirmedChannel(self.container.config["AMQP_URI"], timeout_s)
        try:
            return work(self._channel, timeout_s)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.connection.collect()

    def stop(self) -> None:
        self._close()

    kill = stop


class LazyPublisher(Publisher):
    """A Publisher, on a channel of its own, that sends now and asks for the confirms later, many at a time."""

    def publish_lazily(self, messages: Sequence[Message]) -> None:
        """Send `messages`. Unavailable if that fails: then all that are under way may be lost."""
        self._work(lambda channel, timeout_s: channel.send(messages))

    def confirms(self) -> list[bool]:
        """Say of each message since the last time whether the broker took it and routed it. Unavailable as above."""
        return self._work(lambda channel, timeout_s: channel.confirms(timeout_s))


class ConfirmedChannel:
    """A channel in confirm mode that keeps many messages on their way at once."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        self.connection = Connection(uri, connect_timeout=timeout_s)
        self.connection.ensure_connection(max_retries=1, interval_start=0)
        self.channel = self.connection.channel()
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self.channel.events["basic_nack"].add(self._on_nack)
        self.channel.events["basic_return"].add(self._on_return)
        self.declared: set[str] = set()
        self.sent = 0                         # the delivery tag of the last message
        self.told = 0                         # ... and of the last one whose fate was asked for
        self.waiting: set[int] = set()        # delivery tags that are not confirmed yet
        self.refused: set[int] = set()        # ... that the broker did not take
        self.returned: set[str] = set()       # ... and message ids that it could not route

    @property
    def under_way(self) -> int:
        """How many messages were sent since the confirms were last asked for."""
        return self.sent - self.told

    def publish(self, messages: Sequence[Message], timeout_s: float) -> list[bool]:
        """Send all, wait for the confirms of all."""
        self.send(messages)
        return self.confirms(timeout_s)

    def send(self, messages: Sequence[Message]) -> None:
        """Send all; `confirms` says later what became of them."""
        for message in messages:
            self._send(message)

    def confirms(self, timeout_s: float) -> list[bool]:
        """Wait for the confirms of all messages under way, and say of each whether the broker took and routed it."""
        deadline = time.monotonic() + timeout_s
        while self.waiting:
            try:
                self.connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))
            except socket.timeout:
                raise Unavailable("the broker did not confirm in time") from None
        taken = [tag not in self.refused and str(tag) not in self.returned
                 for tag in range(self.told + 1, self.sent + 1)]
        self.told = self.sent
        self.refused.clear()
        self.returned.clear()
        return taken

    def _send(self, message: Message) -> None:
        to = message.to
        if to.name not in self.declared:
            to.bind(self.channel).declare()
            self.declared.add(to.name)
        exchange, routing_key = ("", to.name) if isinstance(to, Queue) else (to.name, message.routing_key)
        content_type, encoding, body = encode(message)
        self.sent += 1
        self.waiting.add(self.sent)
        properties = {"delivery_mode": 2, **message.properties, "message_id": str(self.sent)}
        self.channel.basic_publish(
            self.channel.prepare_message(body, None, content_type, encoding, dict(message.headers), properties),
            exchange=exchange, routing_key=routing_key, mandatory=True)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self.waiting = {other for other in self.waiting if other > tag} if multiple else self.waiting - {tag}

    def _on_nack(self, tag: int, multiple: bool) -> None:
        before = self.waiting
        self._on_ack(tag, multiple)
        self.refused |= before - self.waiting

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self.returned.add(message.properties["message_id"])


def encode(message: Message) -> tuple[str, str, Any]:
    """Content type, encoding and bytes of the body: JSON, unless it is bytes already."""
    if isinstance(message.body, bytes | memoryview):
        given = message.encoded or {}
        return (given.get("content_type", "application/octet-stream"), given.get("content_encoding", "binary"),
                bytes(message.body))
    encoded: tuple[str, str, Any] = dumps(message.body, serializer="json")
    return encoded
