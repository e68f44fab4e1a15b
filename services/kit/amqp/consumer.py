"""The connection on which a service takes messages from the broker.

What a crash leaves: messages that are not acknowledged, which the broker delivers again.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import nameko.messaging
import nameko.rpc
from amqp.exceptions import AMQPError, RecoverableConnectionError
from kombu.exceptions import KombuError
from nameko.extensions import ProviderCollector

from services.kit.amqp.watch import BrokerWatch
from services.kit.seams import Container, Incoming

log = logging.getLogger(__name__)

RECONNECT_S = 2  # the longest pause between two attempts
POLL_S = 0.5  # how often a consumer that waits for messages checks whether it is to stop


class QueueConsumer(nameko.messaging.QueueConsumer):
    """Nameko's consumer, which keeps its connection until the last worker is done and drops nothing undecodable.

    Nameko closes the connection as soon as nothing is consumed any more. A worker that is still busy when the service
    is asked to stop could then not acknowledge its message, which would be delivered and handled again.

    A connection or a channel that is lost is opened again. Messages that were not acknowledged on it come again.
    """

    container: Container
    watch = BrokerWatch()

    def __init__(self) -> None:
        super().__init__()
        self._channel: Any = None
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
        except (AMQPError, KombuError, OSError) as error:
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

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """Connect, and try again until it succeeds, with pauses of up to RECONNECT_S."""
        with self.create_connection() as connection:
            connection.ensure_connection(
                self.on_connection_error, interval_start=0.2, interval_step=0.4, interval_max=RECONNECT_S
            )
            yield connection

    def consume(
        self, limit: int | None = None, timeout: float | None = None, safety_interval: float = POLL_S, **kwargs: Any
    ) -> Any:
        """Run kombu's loop, which checks every POLL_S seconds whether it is to stop."""
        return super().consume(limit, timeout, safety_interval, **kwargs)

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
        super().on_connection_error(exc, interval)
        self._channel = None
        self._report_removed()
        if self.should_stop or self._workers_are_done:
            raise StopConnecting

    def _cancel_consumers_if_requested(self) -> None:
        """Cancel the consumers of removed providers, which do not wait on if the broker goes away meanwhile."""
        try:
            for provider in list(self._pending_remove_providers):
                consumer = self._consumers.pop(provider, None)
                if consumer is not None:
                    consumer.cancel()
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
        self._cancel_consumers_if_requested()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def stop(self) -> None:
        """End the loop. The container calls this when all workers have ended."""
        self._workers_are_done = True
        super().stop()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        self._channel = channel
        self._consumers.clear()
        channel.auto_decode = False  # keep the bytes of bodies: JSON is UTF-8, whatever encoding a message declares
        consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            consumer.no_ack = isinstance(provider, nameko.rpc.ReplyListener)  # whoever waits for a reply dies with us
            if hasattr(provider, "handle_undecodable"):
                consumer.on_decode_error = partial(self._handle_undecodable, provider)
        return consumers

    def _handle_undecodable(self, provider: Any, message: Any, error: Exception) -> None:
        self.container.spawn_managed_thread(partial(provider.handle_undecodable, message, error))


class StopConnecting(Exception):
    """The service stops while the broker is away. Only an exception ends kombu's loop of attempts to connect."""
