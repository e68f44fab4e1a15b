"""Events out: written in the transaction of what they tell of, published afterwards, at least once.

What a crash leaves: before the commit, nothing; after it, a row whose lease ends, so that any replica's relay
publishes it (see `relay.py`); after the publish, a row that is published again, which its handlers find done.
(Richardson, "Microservices Patterns", 2018: transactional outbox, polling publisher.)
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from nameko.extensions import DependencyProvider
from sqlalchemy import BigInteger, Identity, Index, event, func, insert, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column

from services.kit.amqp.publisher import LazyPublisher
from services.kit.db.database import Database
from services.kit.event import Event
from services.kit.outbox.relay import Envelope, Relay


class OutboxRow:
    """The outbox table, for a service's models to inherit."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event_id: Mapped[UUID] = mapped_column(unique=True)
    type: Mapped[str]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_until: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    published_at: Mapped[datetime | None]

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (Index("outbox_waiting", "claimed_until", "id", postgresql_where=text("published_at is null")),)


class Outbox(DependencyProvider):
    """Takes the events of a service: `outbox = Outbox(models.Outbox)`."""

    publisher = LazyPublisher()
    relay: Relay

    def __init__(self, model: type[OutboxRow]) -> None:
        self.model = model

    def get_dependency(self, worker_ctx: Any) -> "Outbox":
        return self

    def add(self, session: Session, facts: Sequence[Event]) -> None:
        """Write `facts` with what they tell of; they are published when `session` has committed."""
        lease = timedelta(seconds=self.container.settings.OUTBOX_LEASE_S)
        session.execute(
            insert(self.model).values(claimed_until=func.now() + lease),
            [{"event_id": fact.event_id, "type": fact.TYPE, "body": fact.model_dump(mode="json")} for fact in facts],
        )
        events = [Envelope.of(fact) for fact in facts]
        event.listen(session, "after_commit", lambda _: self.publish_soon(events), once=True)

    def publish_soon(self, events: Sequence[Envelope]) -> None:
        """Publish events that a statement of the store has written and committed."""
        self.relay.publish_soon(events)

    def setup(self) -> None:
        [database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self.relay = Relay(self.container, database, self.publisher)

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self.relay.run, identifier="outbox relay")

    def stop(self) -> None:
        self.relay.stop()
        self._thread.wait()

    def kill(self) -> None:
        if hasattr(self, "_thread"):
            self._thread.kill()
