"""The tables of orders."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Index, false, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.db.idempotency import HAS_KEY
from services.kit.ids import new_id
from services.kit.inbox.table import InboxRow
from services.kit.outbox.table import OutboxRow, TransportRow
from services.kit.recovery import PendingRow, TraceRow
from services.orders.domain import OrderReason


class Base(DeclarativeBase):
    """The database of orders."""

    type_annotation_map = {datetime: DateTime(timezone=True), int: BigInteger}


#: Of an order that lists show. One of a user who does not exist was never accepted, unless it was answered 202 before
#: that was found out. Whoever sends a million of those makes no list slow: they are in no index that a list is read by.
SHOWN = text(f"(reason is null or reason <> '{OrderReason.ACCOUNT_NOT_FOUND}' or promised)")


class Order(PendingRow, Base):
    """An order.

    `request_id` is made by the handler for each HTTP request: the audit looks for two orders of one request; `id` is
    what prevents them. `promised` means that the client was answered 202: the order is shown from then on, however it
    ends.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("price > 0", name="orders_price_positive"),
        CheckConstraint("status in ('pending', 'paid', 'rejected')", name="orders_status"),
        CheckConstraint("(status = 'rejected') = (reason is not null)", name="orders_reason"),
        Index("orders_key", "user_id", "idempotency_key", unique=True, postgresql_where=HAS_KEY),
        Index("orders_newest", "created_at", "id"),  # for the audit, which passes over none
        # One for each list: a filter that passed over rows might pass over a million. All four together cost an order
        # about 15 microseconds.
        Index("orders_shown", "created_at", "id", postgresql_where=SHOWN),
        Index("orders_shown_of_user", "user_id", "created_at", "id", postgresql_where=SHOWN),
        Index("orders_shown_of_status", "status", "created_at", "id", postgresql_where=SHOWN),
        Index("orders_shown_of_user_of_status", "user_id", "status", "created_at", "id", postgresql_where=SHOWN),
        Index("orders_pending", "retry_at", postgresql_where=text("status = 'pending'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[UUID]
    price: Mapped[int]
    status: Mapped[str]
    reason: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    request_id: Mapped[UUID | None]
    promised: Mapped[bool] = mapped_column(server_default=false())


class Trace(TraceRow, Base):
    """The traces of orders."""


class OutboxEvent(OutboxRow, Base):
    """The events of orders."""


class OutboxTransport(TransportRow, Base):
    """How they are published."""


class InboxEvent(InboxRow, Base):
    """The events that failed."""
