"""The outboxes: the events that are not published yet, and for a day those that are, oldest first."""

import heapq
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from services.kit.db.connecting import engine_of
from services.kit.outbox.table import OutboxRow
from services.shop import services_with

BATCH = 1000

EVENTS = """
    select event_id, type, created_at at time zone 'UTC' as created_at, published_at at time zone 'UTC' as published_at,
           case when claimed_until > now() then claimed_until at time zone 'UTC' end as leased_until,
           coalesce('order ' || (body->>'order_id'), 'user ' || (body->>'user_id'), '') as subject
    from outbox where published_at is null or :all order by outbox.created_at, id"""


@dataclass(frozen=True)
class ListedEvent:
    """An event in the outbox of a service. Its times are in UTC."""

    service: str
    id: str
    type: str
    subject: str
    created_at: datetime
    leased_until: datetime | None
    published_at: datetime | None

    @property
    def is_waiting(self) -> bool:
        return self.published_at is None

    def line(self) -> str:
        """Return the event on one line."""
        parts = (self.id, shown(self.created_at), f"{self.service}.{self.type}", self.subject, self._state())
        return "  ".join(part for part in parts if part)

    def _state(self) -> str:
        if self.published_at is not None:
            return f"published at {shown(self.published_at)}"
        return f"leased until {shown(self.leased_until)}" if self.leased_until else "not leased"


def listed(urls: dict[str, str], with_published: bool) -> Iterator[ListedEvent]:
    """Return the events of all outboxes that wait, or all events, oldest first. `urls` are those of the databases."""
    return heapq.merge(
        *(_events_of(service, urls[service], with_published) for service in services_with(OutboxRow)),
        key=lambda event: event.created_at,
    )


def _events_of(service: str, url: str, with_published: bool) -> Iterator[ListedEvent]:
    """Read the events of one service, without holding them all."""
    with (
        engine_of(url) as engine,
        engine.connect() as connection,
        closing(connection.execution_options(yield_per=BATCH).execute(text(EVENTS), {"all": with_published})) as rows,
    ):
        for row in rows:
            yield ListedEvent(
                service,
                str(row.event_id),
                row.type,
                row.subject,
                row.created_at,
                row.leased_until,
                row.published_at,
            )


def shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
