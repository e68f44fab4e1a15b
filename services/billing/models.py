"""The tables of billing."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Index, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.db.idempotency import HAS_KEY
from services.kit.ids import new_id
from services.kit.inbox.table import InboxRow
from services.kit.outbox.table import OutboxRow, TransportRow


class Base(DeclarativeBase):
    """The database of billing."""

    type_annotation_map = {datetime: DateTime(timezone=True), int: BigInteger}


class Account(Base):
    """A user's account. Its balance is the sum of its accepted operations, and never below zero."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance >= 0", name="accounts_balance_not_negative"),)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Operation(Base):
    """A movement of money that was asked for, with its outcome.

    A refused one is kept too, so that asking again returns the same outcome. `balance` is the balance of the user's
    account right after it. `created_at` is taken while the account is locked, so it orders the operations of an account
    as they happened.
    """

    __tablename__ = "operations"
    __table_args__ = (
        CheckConstraint("amount > 0", name="operations_amount_positive"),
        CheckConstraint("kind in ('deposit', 'withdrawal', 'payment')", name="operations_kind"),
        CheckConstraint(
            "outcome in ('accepted', 'insufficient_funds', 'account_not_found')", name="operations_outcome"
        ),
        CheckConstraint("debit <> credit and user_id::text in (debit, credit)", name="operations_ledger_accounts"),
        CheckConstraint("(outcome = 'accepted') = (balance is not null)", name="operations_balance"),
        Index("operations_key", "user_id", "idempotency_key", unique=True, postgresql_where=HAS_KEY),
        Index("operations_statement", "user_id", "created_at", "id", postgresql_where=text("outcome = 'accepted'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    user_id: Mapped[UUID]
    amount: Mapped[int]
    debit: Mapped[str]
    credit: Mapped[str]
    outcome: Mapped[str | None]  # no row has none; older versions wrote null inside their transaction only
    balance: Mapped[int | None]
    idempotency_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WaitingPayment(Base):
    """A payment that an event asks for, and that could not be decided: there is no account yet, or it is locked."""

    __tablename__ = "waiting_payments"
    __table_args__ = (Index("waiting_payments_due", "retry_at"), Index("waiting_payments_of_user", "user_id"))

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    amount: Mapped[int]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    retry_at: Mapped[datetime] = mapped_column(server_default=func.now())
    traceparent: Mapped[str | None]


class OutboxEvent(OutboxRow, Base):
    """The events of billing."""


class OutboxTransport(TransportRow, Base):
    """How they are published."""


class InboxEvent(InboxRow, Base):
    """The events that failed."""
