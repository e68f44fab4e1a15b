"""All the SQL of notifications. Each function works in the caller's transaction."""
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.common.idempotency import claim
from services.common.pages import UserPageQuery, newest_first
from services.contracts import OrderPaid, OrderRejected
from services.notifications.domain import Kind, NewMessage
from services.notifications.models import Contact, Letter


def add_letter(session: Session, event: OrderPaid | OrderRejected, kind: Kind, subject: str, body: str) -> bool:
    """Store the letter for an event; False, and nothing stored, if the event was handled before."""
    new = session.execute(
        insert(Letter).values(event_id=event.event_id, order_id=event.order_id, user_id=event.user_id,
                              kind=kind, subject=subject, body=body)
        .on_conflict_do_nothing().returning(Letter.id))
    return new.one_or_none() is not None


def add_contact(session: Session, user_id: UUID, email: str) -> bool:
    """Store a user's address; False if it was known."""
    new = session.execute(insert(Contact).values(user_id=user_id, email=email)
                          .on_conflict_do_nothing().returning(Contact.user_id))
    return new.one_or_none() is not None


def claim_message(session: Session, key: str | None, new: NewMessage) -> tuple[Letter, bool]:
    """Store a message under `key`, or find the one that the key has stored; say which."""
    request = {"user_id": new.user_id, "given_email": new.email, "subject": new.subject, "body": new.body}
    letter, is_new = claim(session, Letter, key, request, kind=Kind.MESSAGE)
    assert letter is not None  # no other unique column can have refused it: all are null
    return letter, is_new


def newest(session: Session, page: UserPageQuery) -> tuple[Sequence[Letter], str | None]:
    """Letters, newest first."""
    letters = select(Letter)
    if page.user_id is not None:
        letters = letters.where(Letter.user_id == page.user_id)
    return newest_first(session, letters, page, Letter.created_at, Letter.id)
