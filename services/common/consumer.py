"""The connection on which a service takes messages from the broker."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import nameko.messaging
import nameko.rpc

RECONNECT_S = 2  # the longest pause between two attempts
LOOK_UP_S = 0.5


class QueueConsumer(nameko.messaging.QueueConsumer):
    """Nameko's, which keeps its connection until the last worker is done, and never drops what it cannot decode.

    Nameko closes the connection as soon as nothing is consumed any more, so a worker that is still at it when
    the service is asked to stop could not acknowledge its message, which would be delivered and done again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._workers_are_done = False

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
            connection.ensure_connection(self.on_connection_error, interval_start=0.2, interval_step=0.4,
                                         interval_max=RECONNECT_S)
            yield connection

    def consume(self, limit: int | None = None, timeout: float | None = None, safety_interval: float = LOOK_UP_S,
                **kwargs: Any) -> Any:
        """kombu's loop, which looks up twice a second for whether it is asked to stop."""
        return super().consume(limit, timeout, safety_interval, **kwargs)

    def on_iteration(self) -> None:
        self._cancel_consumers_if_requested()
        if not self._consumers and self._workers_are_done:
            self.should_stop = True

    def stop(self) -> None:
        """End; the container calls it when all workers have ended."""
        self._workers_are_done = True
        super().stop()

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            consumer.no_ack = isinstance(provider, nameko.rpc.ReplyListener)  # who waited for a reply dies with us
            if hasattr(provider, "handle_undecodable"):
                consumer.on_decode_error = partial(self._handle_undecodable, provider)
        return consumers

    def _handle_undecodable(self, provider: Any, message: Any, error: Exception) -> None:
        self.container.spawn_managed_thread(partial(provider.handle_undecodable, message, error))
