"""Events out: written by the statement that changes their row, published afterwards, at least once.

What a crash leaves: before the commit, nothing; after it, a row whose lease ends, so that any replica's relay
publishes it (see `relay.py`); after the publish, a row that is published again, which its handlers find done.
(Richardson, "Microservices Patterns", 2018: transactional outbox, polling publisher.)
"""

from collections.abc import Iterable
from typing import Any

from nameko.extensions import DependencyProvider

from services.kit.db.database import Database
from services.kit.event import Event
from services.kit.outbox.relay import Relay
from services.kit.outbox.table import OutboxRow, OutgoingEvent
from services.kit.outbox.transport import Transport


class Outbox(DependencyProvider):
    """Publishes the events of a service: `outbox = Outbox(models.OutboxEvent, AmqpTransport())`.

    The only way into the table is a `StatementWithEvents` in the store of the service. The table may hold events of
    types that nobody waits for any more: those that the service `ignores` are marked as published, and not sent.
    """

    relay: Relay

    def __init__(self, model: type[OutboxRow], transport: Transport, ignores: tuple[type[Event], ...] = ()) -> None:
        self.model = model
        self.transport = transport
        self.ignores = ignores

    def get_dependency(self, worker_ctx: Any) -> "Outbox":
        return self

    @property
    def lease_s(self) -> float:
        """Return for how many seconds only this process may publish an event that it has written."""
        return float(self.container.settings.OUTBOX_LEASE_S)

    def publish_soon(self, events: Iterable[OutgoingEvent]) -> None:
        """Publish events that are written and committed, from memory."""
        self.relay.publish_soon(list(events))

    def publish_now(self, events: Iterable[OutgoingEvent]) -> None:
        """Publish events that are written and committed, in this thread, which waits. What fails is published soon."""
        self.relay.publish_now(list(events))

    def setup(self) -> None:
        [database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        ignored = frozenset(event.TYPE for event in self.ignores)
        self.relay = Relay(self.container, database, self.transport, ignored)

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self.relay.run, identifier="outbox relay")

    def stop(self) -> None:
        self.relay.stop()
        self._thread.wait()

    def kill(self) -> None:
        if hasattr(self, "_thread"):
            self._thread.kill()
