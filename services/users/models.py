"""The tables of users."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, Index, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.ids import new_id
from services.kit.inbox.table import InboxRow
from services.kit.outbox.table import OutboxRow, TransportRow
from services.kit.recovery import PendingRow, TraceRow


class Base(DeclarativeBase):
    """The database of users."""

    type_annotation_map = {datetime: DateTime(timezone=True)}


class User(PendingRow, Base):
    """A user, pending until billing has opened the account."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("status in ('pending', 'active')", name="users_status"),
        Index("users_email", text("lower(email)"), unique=True),
        Index("users_newest", "created_at", "id"),
        Index("users_pending", "retry_at", postgresql_where=text("status = 'pending'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    email: Mapped[str]
    status: Mapped[str]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RefusedUser(Base):
    """A request that was refused because another user has the address. Its key keeps this answer."""

    __tablename__ = "refused_users"

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Trace(TraceRow, Base):
    """The traces of users."""


class OutboxEvent(OutboxRow, Base):
    """The events of users."""


class OutboxTransport(TransportRow, Base):
    """How they are published."""


class InboxEvent(InboxRow, Base):
    """The events that failed."""
