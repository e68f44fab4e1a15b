"""The table of an outbox, and the one way into it: a statement that changes rows and writes their events with them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Connection, CursorResult, Identity, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from services.kit.db.statements import PreparedStatement, Type
from services.kit.event import Event


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


class OutgoingEvent(NamedTuple):
    """An event on its way out of an outbox; `body` is its JSON."""

    event_id: str
    type: str
    body: str

    @classmethod
    def of(cls, event: Event) -> "OutgoingEvent":
        return cls(str(event.event_id), event.TYPE, event.model_dump_json())


class _EventOfRow(NamedTuple):
    """An event, and the row that it is about."""

    row_id: UUID
    event_id: UUID
    type: str
    body: str


class StatementWithEvents(PreparedStatement):
    """A statement that changes rows and, with them, writes the events about it.

    `sql` is an insert or an update that returns the `id` of each row that it has changed. An event is written if, and
    only if, its row is among them. All of it is one statement, so no crash leaves a change without its event, or an
    event without its change. (Richardson, "Microservices Patterns", 2018: transactional outbox.)
    """

    def __init__(self, name: str, sql: str, **parameters: Type) -> None:
        super().__init__(
            name,
            f"""
            with changed as ({sql}),
            written as (
                insert into outbox (event_id, type, body, claimed_until)
                select event_id, type, cast(body as jsonb), now() + {{lease}} from {{events}}
                where row_id = any(array(select id from changed))
            )
            select * from changed""",
            **parameters,
            events=_EventOfRow,
            lease="interval",
        )

    def run(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute it and return the changed rows; `events` are OutgoingEvents by the id of the row that each is about.

        The events are written under a lease of `lease_s` seconds: until then nobody else publishes them.
        """
        events: Mapping[UUID, OutgoingEvent] = values.pop("events")
        lease = timedelta(seconds=values.pop("lease_s"))
        rows = [_EventOfRow(id_, *event) for id_, event in events.items()]  # type: ignore[arg-type]
        return super().run(connection, **values, events=rows, lease=lease)
