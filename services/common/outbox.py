"""Events out: written in the transaction of what they tell of, published afterwards, at least once.

What a crash leaves: before the commit, nothing; after it, a row that the next round of any replica's relay
publishes; after the publish, a row that is published again when its lease is over, which the handlers'
inbox drops. (Richardson, "Microservices Patterns", 2018: transactional outbox, polling publisher.)
"""
import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from eventlet import Timeout
from eventlet.event import Event as Wake
from nameko.extensions import DependencyProvider
from nameko.standalone.events import get_event_exchange
from sqlalchemy import BigInteger, Identity, Index, event, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column

from services.common import metrics
from services.common.database import Database
from services.common.problems import OUTCOME_UNKNOWN, Unavailable
from services.common.publisher import Message, Publisher
from services.contracts import Event

log = logging.getLogger(__name__)


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
        return (Index("outbox_waiting", "id", postgresql_where=text("published_at is null")),)


class Outbox(DependencyProvider):
    """Adds events to the outbox, and relays them: `outbox = Outbox(models.Outbox)`."""

    publisher = Publisher()

    def __init__(self, model: type[OutboxRow]) -> None:
        self.model = model
        self._wake = Wake()
        self._relay: Any = None
        self._stopping = False

    def get_dependency(self, worker_ctx: Any) -> "Outbox":
        return self

    def add(self, session: Session, fact: Event) -> None:
        """Write `fact` with what it tells of; the relay is woken when `session` commits."""
        session.execute(insert(self.model).values(
            event_id=fact.event_id, type=fact.TYPE, body=fact.model_dump(mode="json")))
        event.listen(session, "after_commit", lambda _: self.wake(), once=True)

    def start(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self._relay = self.container.spawn_managed_thread(self._run, identifier="outbox relay")

    def stop(self) -> None:
        self._stopping = True
        self.wake()
        self._relay.wait()

    def kill(self) -> None:
        if self._relay is not None:
            self._relay.kill()

    def wake(self) -> None:
        """Relay now rather than at the next interval."""
        if not self._wake.ready():
            self._wake.send()

    def _run(self) -> None:
        settings = self.container.settings
        stopping = False
        while not stopping:  # once more after the last worker has ended
            stopping, self._wake = self._stopping, Wake()
            try:
                while self.relay(settings.OUTBOX_BATCH, settings.OUTBOX_LEASE_S):
                    pass
                self._measure()
            except OUTCOME_UNKNOWN as error:
                log.warning("the outbox waits: %s", type(error).__name__)
                self._wake = Wake()  # what has failed is tried again at the interval, not at once
            except Exception:
                log.exception("the outbox waits")
                self._wake = Wake()
            with Timeout(0 if self._stopping else settings.OUTBOX_INTERVAL_S, False):
                self._wake.wait()

    def relay(self, batch: int, lease_s: float) -> bool:
        """Publish up to `batch` events that no other relay holds; say whether there may be more at once."""
        with self.database.session() as session:
            rows = claim(session, self.model, batch, lease_s)
        if not rows:
            return False
        taken = self._publish(rows)
        with self.database.session() as session:
            record(session, self.model,
                   published=[row.id for row, routed in zip(rows, taken, strict=True) if routed],
                   waiting=[row.id for row, routed in zip(rows, taken, strict=True) if not routed])
        metrics.EVENTS_PUBLISHED.labels(self.container.service_name).inc(sum(taken))
        return sum(taken) == batch

    def _publish(self, rows: list[Any]) -> list[bool]:
        """Publish the events of `rows`; say of each whether it is safe with the broker."""
        exchange = get_event_exchange(self.container.service_name, self.container.config)
        try:
            taken = self.publisher.publish([Message(row.body, exchange, row.type) for row in rows])
        except Unavailable as error:
            log.warning("%d events wait in the outbox: %s", len(rows), error)
            return [False] * len(rows)
        if not all(taken):
            log.warning("%d events have no queue yet and wait in the outbox", taken.count(False))
        return taken

    def _measure(self) -> None:
        with self.database.session() as session:
            age = func.extract("epoch", func.now() - func.min(self.model.created_at))
            waiting, lag_s = session.execute(
                select(func.count(), func.coalesce(age, 0)).where(self.model.published_at.is_(None))).one()
        metrics.OUTBOX_WAITING.labels(self.container.service_name).set(waiting)
        metrics.OUTBOX_LAG.labels(self.container.service_name).set(lag_s)


def claim(session: Session, model: type[Any], batch: int, lease_s: float) -> list[Any]:
    """Take a lease on up to `batch` rows that wait, oldest first, passing over those that others hold."""
    due = (select(model.id).where(model.published_at.is_(None), model.claimed_until < func.now())
           .order_by(model.id).limit(batch).with_for_update(skip_locked=True))
    rows = session.execute(
        update(model).where(model.id.in_(due)).values(claimed_until=func.now() + timedelta(seconds=lease_s))
        .returning(model.id, model.type, model.body)).all()
    return sorted(rows)


def record(session: Session, model: type[Any], published: list[int], waiting: list[int]) -> None:
    """Mark what the broker has taken; give the lease back on what it has not."""
    if published:
        session.execute(update(model).where(model.id.in_(published)).values(published_at=func.now()))
    if waiting:
        session.execute(update(model).where(model.id.in_(waiting)).values(claimed_until=text("'-infinity'")))
