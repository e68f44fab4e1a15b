"""Messages that the broker has confirmed.

Each publisher of a process has one connection. It is opened when it is needed, and closed after any error and any
missed deadline: on the old connection a confirm that comes late could be mistaken for the confirm of a later message.
(RabbitMQ manual, "Consumer Acknowledgements and Publisher Confirms".) The next one is to another node, if there is one.

The broker refuses some messages for good. That is no outage, and is raised as `RefusedByBroker`.

What a crash leaves: messages that the broker may have or not. Whoever published them publishes them again.
"""

import logging
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

import eventlet
from amqp.exceptions import ContentTooLarge, FrameSyntaxError, IrrecoverableChannelError, NotAllowed
from eventlet import Timeout
from eventlet.semaphore import Semaphore
from kombu import Exchange, Queue
from nameko.extensions import SharedExtension

from services.kit.amqp.message import Message, Unencodable, encode
from services.kit.amqp.nodes import BROKER_DOWN, Nodes, nodes_of
from services.kit.amqp.sockets import written_together
from services.kit.errors import Refused, Unavailable
from services.kit.seams import Container

log = logging.getLogger(__name__)

NO_LOGIN_PAUSE_S = 2.0  # nobody tries to log in for so long after the broker has refused our user
LOG_AGAIN_S = 60.0  # the same refusal is logged once in this time
T = TypeVar("T")


#: 403 ACCESS_REFUSED, 404 NOT_FOUND, 406 PRECONDITION_FAILED, 311 CONTENT_TOO_LARGE, 530 NOT_ALLOWED, 502 SYNTAX_ERROR.
REFUSALS = (IrrecoverableChannelError, ContentTooLarge, NotAllowed, FrameSyntaxError, Unencodable)


class RefusedByBroker(Refused):
    """The broker refuses a message for good, or it cannot be encoded; others in the pipeline may have been sent."""


class Publisher(SharedExtension):
    """Publishes batches of messages on one channel in confirm mode."""

    container: Container

    def __init__(self) -> None:
        super().__init__()
        self._turn = Semaphore()
        self._channel: ConfirmedChannel | None = None
        self._no_login_until = 0.0
        self._logged_at: dict[str, float] = {}  # by refusal

    def publish(self, messages: Sequence[Message]) -> list[bool]:
        """Send `messages` and wait for their confirms; return for each whether the broker routed it to a queue.

        Raise Unavailable after PUBLISH_TIMEOUT_S, or when the broker is away: any of them may have been sent.
        Raise RefusedByBroker when the broker refuses one of them for good.
        """
        return self._work(lambda channel, timeout_s: channel.publish(messages, timeout_s))

    def check(self) -> None:
        """Check that the broker answers; raise Unavailable if it does not."""
        self._work(lambda channel, timeout_s: channel.connection.channel().close())

    def _work(self, work: Callable[["ConfirmedChannel", float], T]) -> T:
        """Do `work` on the channel, one caller at a time, within PUBLISH_TIMEOUT_S."""
        timeout_s = self.container.settings.PUBLISH_TIMEOUT_S
        with Timeout(timeout_s, Unavailable("the broker did not answer in time")), self._turn:
            try:
                return self._work_in_turn(work, timeout_s)
            except REFUSALS as error:
                self.note_refusal(str(error), type(error).__name__)
                raise RefusedByBroker(str(error)) from error
            except BROKER_DOWN as error:
                raise Unavailable("the broker is away") from error

    def _work_in_turn(self, work: Callable[["ConfirmedChannel", float], T], timeout_s: float) -> T:
        """Do `work`; once more on a new channel if the old one was idle, and had died without being noticed."""
        was_idle = self._channel is not None and not self._channel.in_flight
        try:
            return self._try(work, timeout_s)
        except REFUSALS:
            raise
        except BROKER_DOWN:
            if not was_idle:
                raise
        return self._try(work, timeout_s)

    def _try(self, work: Callable[["ConfirmedChannel", float], T], timeout_s: float) -> T:
        if self._channel is None:
            self._channel = self._connect(timeout_s)
        try:
            done = work(self._channel, timeout_s)
        except BaseException:
            self._close()
            raise
        if self._channel.has_nacks:
            self._close(leaves_node=False)
        return done

    @cached_property
    def _nodes(self) -> Nodes:
        return nodes_of(self.container.config)

    def _connect(self, timeout_s: float) -> "ConfirmedChannel":
        if time.monotonic() < self._no_login_until:
            raise RefusedByBroker("the broker has refused our user just now")
        try:
            return self._nodes.connect(timeout_s, self.container.settings.HEARTBEAT, ConfirmedChannel)
        except REFUSALS:
            self._no_login_until = time.monotonic() + NO_LOGIN_PAUSE_S
            raise

    def note_refusal(self, why: str, kind: str) -> None:
        """Count a refusal, and log it unless it was logged lately."""
        self.container.metrics.broker_refusals.labels(self.container.service_name, kind).inc()
        now = time.monotonic()
        self._logged_at = {other: at for other, at in self._logged_at.items() if at > now - LOG_AGAIN_S}
        if why not in self._logged_at:
            self._logged_at[why] = now
            log.error("the broker refuses what we ask of it: %s", why)

    def _close(self, leaves_node: bool = True) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            if leaves_node:
                self._nodes.leave(channel.connection)
            channel.connection.collect()

    def start(self) -> None:
        self.container.spawn_managed_thread(self._keep_alive, identifier="heartbeats")

    def _keep_alive(self) -> None:
        """Exchange heartbeats on an idle connection, so that each side notices when the other is gone."""
        while True:
            eventlet.sleep(self.container.settings.HEARTBEAT / 4)
            self.beat()

    def beat(self) -> None:
        """Send a heartbeat if one is due, and close an idle connection that has died. Never wait."""
        if self._channel is None or self._turn.locked() or self._channel.in_flight:
            return
        with self._turn:
            try:
                with Timeout(self.container.settings.PUBLISH_TIMEOUT_S, Unavailable("the broker takes nothing")):
                    self._channel.beat()
            except (Unavailable, *BROKER_DOWN) as error:
                log.info("an idle connection to the broker has died: %s", error)
                self._close()

    def stop(self) -> None:
        self._close()

    kill = stop


class PipelinedPublisher(Publisher):
    """A Publisher with a channel of its own that sends many batches before it waits for the confirms of all."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send `messages`. Raise Unavailable if that fails: all that is not confirmed yet may be lost."""
        self._work(lambda channel, timeout_s: channel.send(messages))

    def wait_for_confirms(self) -> list[bool]:
        """Wait for the confirms of all messages sent since the last time; return for each whether it was routed.

        Raise Unavailable and RefusedByBroker as `publish` does.
        """
        return self._work(lambda channel, timeout_s: channel.wait_for_confirms(timeout_s))


class ConfirmedChannel:
    """A channel in confirm mode, on which many messages may be sent before the first is confirmed."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self.channel.events["basic_nack"].add(self._on_nack)
        self.channel.events["basic_return"].add(self._on_return)
        self.declared: set[str] = set()
        self.has_nacks = False  # a channel of RabbitMQ 3.10 that has met a queue without a leader may nack for ever
        self.sent = 0  # the delivery tag of the last message sent
        self.reported = 0  # ... and of the last message that `wait_for_confirms` has reported
        self.waiting: set[int] = set()  # delivery tags without a confirm
        self.refused: set[int] = set()  # ... of messages that the broker did not take, or could not route
        self.tags: dict[str, deque[int]] = defaultdict(deque)  # message id -> delivery tags that are not reported

    @property
    def in_flight(self) -> int:
        """The number of messages sent that `wait_for_confirms` has not reported yet."""
        return self.sent - self.reported

    def publish(self, messages: Sequence[Message], timeout_s: float) -> list[bool]:
        """Send all, then wait for the confirms of all."""
        self.send(messages)
        return self.wait_for_confirms(timeout_s)

    def send(self, messages: Sequence[Message]) -> None:
        """Send all; `wait_for_confirms` reports later what became of them."""
        for message in messages:
            self._declare(message.to)
        with written_together(self.connection):
            for message in messages:
                self._send_one(message)

    def wait_for_confirms(self, timeout_s: float) -> list[bool]:
        """Wait for all confirms; return for each message since the last time whether the broker took and routed it."""
        deadline = time.monotonic() + timeout_s
        while self.waiting:
            try:
                self.connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))
            except TimeoutError:
                raise Unavailable("the broker did not confirm in time") from None
        taken = [tag not in self.refused for tag in range(self.reported + 1, self.sent + 1)]
        self.reported = self.sent
        self.refused.clear()
        self.tags.clear()
        return taken

    def beat(self) -> None:
        """Read what has come from the broker while we were idle, and send a heartbeat if one is due."""
        if not self.connection.supports_heartbeats:
            return
        try:
            self.connection.drain_events(timeout=0.001)
        except TimeoutError:
            pass  # the normal case: on an idle connection only heartbeats come
        self.connection.heartbeat_check()

    def _declare(self, to: Exchange | Queue) -> None:
        if to.name not in self.declared:
            to.bind(self.channel).declare()
            self.declared.add(to.name)

    def _send_one(self, message: Message) -> None:
        to = message.to
        exchange, routing_key = ("", to.name) if isinstance(to, Queue) else (to.name, message.routing_key)
        content_type, encoding, body = encode(message)
        properties = {"delivery_mode": 2, "message_id": str(uuid4()), **message.properties}
        self.sent += 1
        self.waiting.add(self.sent)
        self.tags[properties["message_id"]].append(self.sent)
        try:
            self.channel.basic_publish(
                self.channel.prepare_message(body, None, content_type, encoding, dict(message.headers), properties),
                exchange=exchange,
                routing_key=routing_key,
                mandatory=True,
            )
        except struct.error as error:
            raise Unencodable(f"a message to {message.to.name} does not fit into AMQP: {error}") from error

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self.waiting = {other for other in self.waiting if other > tag} if multiple else self.waiting - {tag}

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self.has_nacks = True
        before = self.waiting
        self._on_ack(tag, multiple)
        self.refused |= before - self.waiting

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        """Note that a message could not be routed. Returns come before the confirms, in the order of sending."""
        self.refused.add(self.tags[message.properties["message_id"]].popleft())
