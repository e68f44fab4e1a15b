"""The connection on which a service takes messages from the broker."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import nameko.messaging
import nameko.rpc
from amqp.exceptions import AMQPError, RecoverableConnectionError
from kombu.exceptions import KombuError
from nameko.extensions import ProviderCollector

log = logging.getLogger(__name__)

RECONNECT_S = 2  # the longest pause between two attempts
LOOK_UP_S = 0.5


class QueueConsumer(nameko.messaging.QueueConsumer):
    """Nameko's, which keeps its connection until the last worker is done, and never drops what it cannot decode.

    Nameko closes the connection as soon as nothing is consumed any more, so a worker that is still at it when
    the service is asked to stop could not acknowledge its message, which would be delivered and done again.
    A connection or a channel that is lost is opened again; what was not acknowledged on it is delivered again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._channel: Any = None
        self._workers_are_done = False

    def ack_message(self, message: Any) -> None:
        """Acknowledge, unless the broker has the message back; it has, if this fails."""
        self._answer(message, message.ack)

    def requeue_message(self, message: Any) -> None:
        """Have the broker deliver the message again."""
        self._answer(message, message.requeue)

    def _answer(self, message: Any, answer: Callable[[], None]) -> None:
        if self.is_lost(message):
            return
        try:
            answer()
        except (AMQPError, KombuError, OSError) as error:
            log.warning("a message could not be acknowledged and comes again: %s", type(error).__name__)

    def is_lost(self, message: Any) -> bool:
        """Whether the message came on a channel that is closed, so that the broker delivers it again."""
        return message.channel is not self._channel or not message.channel.connection

    @property
    def prefetch_count(self) -> int:
        """How many unacknowledged messages a queue may give us: a batch of events, or what the workers can take."""
        takes_batches = any(hasattr(provider, "event") for provider in self._providers)
        settings = self.container.settings
        return int(settings.EVENT_BATCH if takes_batches else settings.max_workers)

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """Connect, trying again for ever, at first at once and then every few seconds."""
        with self.create_connection() as connection:
            connection.ensure_connection(
                self.on_connection_error, interval_start=0.2, interval_step=0.4, interval_max=RECONNECT_S
            )
            yield connection

    def consume(
        self, limit: int | None = None, timeout: float | None = None, safety_interval: float = LOOK_UP_S, **kwargs: Any
    ) -> Any:
        """kombu's loop, which looks up twice a second for whether it is asked to stop."""
        return super().consume(limit, timeout, safety_interval, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Consume until all is done, also when the broker stays away."""
        try:
            super().run(*args, **kwargs)
        except Done:
            pass

    def unregister_provider(self, provider: Any) -> None:
        """Stop consuming for a provider; at once if there has been no connection yet."""
        if self._consumers_ready.ready():
            super().unregister_provider(provider)
        else:
            ProviderCollector.unregister_provider(self, provider)

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        """Let whoever waits for the end of consuming go on: without a broker nothing is consumed."""
        super().on_connection_error(exc, interval)
        self._channel = None
        self._tell_of_removal()
        if self.should_stop or self._workers_are_done:
            raise Done

    def _cancel_consumers_if_requested(self) -> None:
        """Nameko's, which does not leave a provider waiting when the broker goes away meanwhile."""
        try:
            for provider in list(self._pending_remove_providers):
                consumer = self._consumers.pop(provider, None)
                if consumer is not None:
                    consumer.cancel()
        finally:
            self._tell_of_removal()

    def _tell_of_removal(self) -> None:
        removed = dict(self._pending_remove_providers)
        self._pending_remove_providers.clear()
        for event in removed.values():
            event.send()

    def on_iteration(self) -> None:
        """Look up, before the next message is waited for; a lost connection is given up here.

        kombu would open another one in its place, on which nothing is consumed, and wait there for ever. It is lost
        without our having noticed if an acknowledgement found it so.
        """
        if self._channel is not None:
            connection = self._channel.connection
            if not getattr(connection, "connected", connection is not None):
                raise RecoverableConnectionError("the connection was lost")
        self._cancel_consumers_if_requested()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def stop(self) -> None:
        """End; the container calls it when all workers have ended."""
        self._workers_are_done = True
        super().stop()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        self._channel = channel
        self._consumers.clear()
        channel.auto_decode = False  # bodies stay as they came; JSON is UTF-8, whatever a message says
        consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            consumer.no_ack = isinstance(provider, nameko.rpc.ReplyListener)  # who waited for a reply dies with us
            if hasattr(provider, "handle_undecodable"):
                consumer.on_decode_error = partial(self._handle_undecodable, provider)
        return consumers

    def _handle_undecodable(self, provider: Any, message: Any, error: Exception) -> None:
        self.container.spawn_managed_thread(partial(provider.handle_undecodable, message, error))


class Done(Exception):
    """There is nothing more to be consumed."""
