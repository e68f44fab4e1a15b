"""The connection on which a service takes messages from the broker.

What a crash leaves: messages that are not acknowledged, which the broker delivers again.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from itertools import count
from typing import Any

import eventlet
import nameko.messaging
import nameko.rpc
from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from eventlet import Timeout
from nameko.extensions import ProviderCollector

from services.kit.amqp.nodes import BROKER_DOWN, Nodes, NodeSilent, nodes_of
from services.kit.amqp.publisher import REFUSALS
from services.kit.amqp.watch import BrokerWatch
from services.kit.seams import Container, Incoming

log = logging.getLogger(__name__)

RECONNECT_S = 2  # the longest pause between two attempts
POLL_S = 0.5  # how often a consumer that waits for messages checks whether it is to stop
CLOSE_S = 2  # for the broker's answer that a connection is closed
ASK_AFTER, LEAVE_AFTER = 3, 10  # silent rounds of POLL_S: of one of several nodes


class QueueConsumer(nameko.messaging.QueueConsumer):
    """Nameko's consumer, which keeps its connection until the last worker is done and drops nothing undecodable.

    Nameko closes the connection as soon as nothing is consumed any more. A worker that is still busy when the service
    is asked to stop could then not acknowledge its message, which would be delivered and handled again.

    A connection or a channel that is lost is opened again, to another node if there are several. Messages that were not
    acknowledged on it come again.
    """

    container: Container
    watch = BrokerWatch()

    def __init__(self) -> None:
        super().__init__()
        self._providers = Providers()
        self._channel: Any = None
        self._received = 0  # by the connection so far: its own count
        self._silent_rounds = 0  # ... of the loop, in which it received nothing
        self._workers_are_done = False

    def ack_message(self, message: Incoming) -> None:
        """Acknowledge a message, unless its connection is lost: then the broker delivers it again."""
        self._answer(message, message.ack)

    def requeue_message(self, message: Incoming) -> None:
        """Have the broker deliver the message again."""
        self._answer(message, message.requeue)

    def _answer(self, message: Incoming, answer: Callable[[], None]) -> None:
        if self.is_lost(message):
            return
        try:
            answer()
        except BROKER_DOWN as error:
            log.warning("a message could not be acknowledged and comes again: %s", type(error).__name__)

    def is_lost(self, message: Incoming) -> bool:
        """Return whether the message came on a channel that is closed, so that the broker delivers it again."""
        return message.channel is not self._channel or not message.channel.connection

    @property
    def prefetch_count(self) -> int:
        """How many unacknowledged messages we take from a queue: a batch of events, or one for each worker."""
        takes_batches = any(hasattr(provider, "event") for provider in self._providers)
        settings = self.container.settings
        return int(settings.EVENT_BATCH if takes_batches else settings.max_workers)

    @cached_property
    def _nodes(self) -> Nodes:
        return nodes_of(self.container.config)

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """Connect to a node, and leave it if the connection fails. A node that is asked to close it may be silent."""
        connection = self._connect()
        try:
            yield connection
        except BaseException:
            self._nodes.leave(connection)
            raise
        with Timeout(CLOSE_S, False):
            connection.release()
        connection.collect()

    def _connect(self) -> Any:
        """Connect, and try again until it succeeds, with pauses of up to RECONNECT_S after all nodes have failed."""
        settings = self.container.settings
        for attempt in count():
            try:
                return self._nodes.connect(settings.PUBLISH_TIMEOUT_S, settings.HEARTBEAT, opened)
            except BROKER_DOWN as error:
                pause_s = min(0.2 + 0.4 * attempt, RECONNECT_S)
                self.on_connection_error(error, pause_s)
                eventlet.sleep(pause_s)

    @contextmanager
    def _consume_from(self, *consumers: Any) -> Iterator[Any]:
        """Declare the queues and consume from them. The node may fall silent meanwhile."""
        with ExitStack() as consuming:
            with self._deadline():
                for consumer in consumers:
                    consuming.enter_context(consumer)
            yield consumers

    def _deadline(self) -> Timeout:
        return Timeout(self.container.settings.PUBLISH_TIMEOUT_S, NodeSilent("the broker does not answer"))

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **kwargs: Any) -> None:
        super().on_consume_ready(connection, channel, consumers, **kwargs)
        self.watch.note_consuming()

    def consume(
        self, limit: int | None = None, timeout: float | None = None, safety_interval: float = POLL_S, **kwargs: Any
    ) -> Any:
        """Run kombu's loop, which checks every POLL_S seconds whether it is to stop, on one connection."""
        try:
            yield from super().consume(limit, timeout, safety_interval, **kwargs)
        except REFUSALS as error:  # kombu's `run` goes on with the next connection
            self._channel = None
            self.watch.note_refusal(error)
            self._report_removed()
            eventlet.sleep(RECONNECT_S)
            self._report_removed()  # those that went meanwhile: nobody else tells them if this was the last round
            self.should_stop |= self._workers_are_done

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Consume until `stop`, also if the broker is away then."""
        with suppress(StopConnecting):
            super().run(*args, **kwargs)

    def unregister_provider(self, provider: Any) -> None:
        """Stop consuming for a provider: at once if there has been no connection yet."""
        if self._consumers_ready.ready():
            super().unregister_provider(provider)
        else:
            ProviderCollector.unregister_provider(self, provider)

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        """Report providers as removed, since nothing is consumed without a broker; give up when it is time to stop."""
        log.warning("cannot connect to the broker, trying again in %.1f s: %s", interval, exc)
        self._channel = None
        self._report_removed()
        if self.should_stop or self._workers_are_done:
            raise StopConnecting

    def _cancel_consumers_if_requested(self) -> None:
        """Cancel the consumers of removed providers, which do not wait on if the broker goes away meanwhile.

        One that was removed while we connected is not among the providers any more.
        """
        try:
            for provider in list(self._consumers):
                if provider in self._pending_remove_providers or provider not in self._providers:
                    with self._deadline():
                        self._consumers.pop(provider).cancel()
        finally:
            self._report_removed()

    def _report_removed(self) -> None:
        removed = dict(self._pending_remove_providers)
        self._pending_remove_providers.clear()
        for event in removed.values():
            event.send()

    def on_iteration(self) -> None:
        """Check the connection and the requests to stop, before kombu waits for the next message.

        An acknowledgement may have met a lost connection. kombu would open another one in its place, on which nothing
        is consumed, and wait there for ever; so the error is raised here.
        """
        if self._channel is not None:
            connection = self._channel.connection
            if not getattr(connection, "connected", connection is not None):
                raise RecoverableConnectionError("the connection was lost")
            if self._nodes.are_several:
                self._check_that_it_answers(connection)
        self._cancel_consumers_if_requested()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def _check_that_it_answers(self, connection: Any) -> None:
        """Have a silent node say something, and leave it for another one if it does not.

        Heartbeats would notice it too, but only after two of them. Rounds of the loop are counted rather than time, so
        that a process that was stopped itself reads first what has come meanwhile.
        """
        if connection.bytes_recv != self._received:
            self._received, self._silent_rounds = connection.bytes_recv, 0
            return
        self._silent_rounds += 1
        if self._silent_rounds == ASK_AFTER:
            self._channel.send_method(spec.Basic.Qos, "lBb", (0, self.prefetch_count, False))  # it has to be answered
        elif self._silent_rounds == LEAVE_AFTER:
            raise RecoverableConnectionError("the node is silent")

    def stop(self) -> None:
        """End the loop. The container calls this when all workers have ended.

        If the broker has never been there, the loop ends at its next attempt to connect, and `start` waits no longer.
        Nameko would kill the thread of the loop, which the container takes for a crash.
        """
        self._workers_are_done = True
        if not self._consumers_ready.ready():
            self._consumers_ready.send(None)
        super().stop()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        self._channel = channel
        self._consumers.clear()
        channel.auto_decode = False  # keep the bytes of bodies: JSON is UTF-8, whatever encoding a message declares
        with self._deadline():
            consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            consumer.no_ack = isinstance(provider, nameko.rpc.ReplyListener)  # whoever waits for a reply dies with us
            if hasattr(provider, "handle_undecodable"):
                consumer.on_decode_error = partial(self._handle_undecodable, provider)
        return consumers

    def _handle_undecodable(self, provider: Any, message: Any, error: Exception) -> None:
        self.container.spawn_managed_thread(partial(provider.handle_undecodable, message, error))


class Providers(set[Any]):
    """A set from which one may go while Nameko declares the queues of all, one after the other."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__()))


def opened(connection: Any) -> Any:
    """Return the connection, with the channel that kombu consumes on."""
    assert connection.default_channel
    return connection


class StopConnecting(Exception):
    """The service stops while the broker is away. Only an exception ends kombu's loop of attempts to connect."""
