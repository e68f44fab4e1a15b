"""The table of an outbox, and the one way into it: a statement that changes rows and writes their events with them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Connection, CursorResult, Identity, Index, func, text, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from services.kit.db.statements import PreparedStatement, Type
from services.kit.event import Event
from services.kit.tracing import traceparent


class OutboxRow:
    """The outbox table, for a service's models to inherit."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event_id: Mapped[UUID] = mapped_column(unique=True)
    type: Mapped[str]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    traceparent: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_until: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    published_at: Mapped[datetime | None]

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (Index("outbox_waiting", "claimed_until", "id", postgresql_where=text("published_at is null")),)


class TransportRow:
    """The one row that names the transport by which an outbox is published, for a service's models to inherit."""

    __tablename__ = "outbox_transport"
    __table_args__ = (CheckConstraint("is_only", name="outbox_transport_one_row"),)

    is_only: Mapped[bool] = mapped_column(primary_key=True, server_default=true())
    name: Mapped[str]


class OutgoingEvent(NamedTuple):
    """An event on its way out of an outbox; `body` is its JSON, `traceparent` the trace that it goes on with."""

    event_id: str
    type: str
    body: str
    traceparent: str | None = None

    @classmethod
    def of(cls, event: Event) -> "OutgoingEvent":
        return cls(str(event.event_id), event.TYPE, event.model_dump_json(), traceparent(event.about))


class EventOfRow(NamedTuple):
    """An event, and the row that it is about. With an `outcome` it is true only if the row has got that outcome."""

    row_id: UUID
    outcome: str | None
    event_id: UUID
    type: str
    body: str
    traceparent: str | None


class StatementWithEvents(PreparedStatement):
    """A statement that changes rows and, with them, writes the events about it.

    `sql` is an insert or an update that returns the `id` of each row that it has changed, or a select of rows that are
    told of again; `before` are the common table expressions that it needs. An event is written if, and only if, its
    row is among these. With `by_outcome`, `sql` also returns the `outcome` of each row, and only the event of that
    outcome is written. All of it is one statement, so no crash leaves a change without its event, or an event without
    its change. (Richardson, "Microservices Patterns", 2018: transactional outbox.)
    """

    def __init__(self, name: str, sql: str, before: str = "", by_outcome: bool = False, **parameters: Type) -> None:
        its_row = "row_id = any(array(select id from changed))"
        if by_outcome:
            its_row = "(row_id, outcome) in (select id, outcome from changed)"
        super().__init__(
            name,
            "select * from changed",
            before=f"""
            {before + "," if before else ""}
            changed as ({sql}),
            written as (
                insert into outbox (event_id, type, body, traceparent, claimed_until)
                select event_id, type, cast(body as jsonb), traceparent, now() + {{lease}}
                from {{events}} where {its_row}
            )""",
            **parameters,
            events=EventOfRow,
            lease="interval",
        )

    def run(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute it and return the changed rows; `events` are OutgoingEvents by the id of the row that each is about.

        With `by_outcome` they are given by id and outcome. They are written under a lease of `lease_s` seconds: until
        then nobody else publishes them.
        """
        events: Mapping[Any, OutgoingEvent] = values.pop("events")
        lease = timedelta(seconds=values.pop("lease_s"))
        rows = [
            EventOfRow(row_id, outcome, UUID(event.event_id), event.type, event.body, event.traceparent)
            for (row_id, outcome), event in (
                (key if isinstance(key, tuple) else (key, None), events[key]) for key in events
            )
        ]
        return super().run(connection, **values, events=rows, lease=lease)
