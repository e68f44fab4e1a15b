"""The tables of notifications."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, Index, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

from services.kit.db.commits import InCommitOrder
from services.kit.db.idempotency import HAS_KEY
from services.kit.ids import new_id
from services.kit.inbox.table import InboxRow


class Base(DeclarativeBase):
    """The database of notifications."""

    type_annotation_map = {datetime: DateTime(timezone=True)}


class InboxEvent(InboxRow, Base):
    """The events that failed."""


class Contact(Base):
    """The address of a user, from `user_registered`."""

    __tablename__ = "contacts"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]


class Letter(InCommitOrder, Base):
    """A letter. `event_id` and `order_id` are unique, so an event that comes again stores nothing.

    The address of a letter to a user is looked up when the letter is read. So it does not matter whether the event of
    the order or that of the user is handled first.
    """

    __tablename__ = "letters"
    __table_args__ = (
        CheckConstraint("kind in ('order_paid', 'order_rejected', 'message')", name="letters_kind"),
        CheckConstraint("(kind = 'message') = (event_id is null)", name="letters_event"),
        CheckConstraint("(event_id is null) = (order_id is null)", name="letters_order"),
        CheckConstraint("user_id is not null or email is not null", name="letters_addressee"),
        Index(
            "letters_key",
            "user_id",
            "idempotency_key",
            unique=True,
            postgresql_nulls_not_distinct=True,  # messages to an address alone share one scope
            postgresql_where=HAS_KEY,
        ),
        Index("letters_newest", "created_at", "id"),
        Index("letters_newest_of_user", "user_id", "created_at", "id"),
        Index("letters_committed", "transaction", "id"),
        Index("letters_committed_of_user", "user_id", "transaction", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    event_id: Mapped[UUID | None] = mapped_column(unique=True)
    user_id: Mapped[UUID | None] = mapped_column()
    order_id: Mapped[UUID | None] = mapped_column(unique=True)
    given_email: Mapped[str | None] = mapped_column("email")
    kind: Mapped[str]
    subject: Mapped[str]
    body: Mapped[str]
    idempotency_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    email = column_property(
        func.coalesce(
            given_email,
            (select(Contact.email).where(Contact.user_id == user_id).correlate_except(Contact).scalar_subquery()),
        )
    )
