"""All the SQL of notifications. Each function works in the caller's transaction."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.contracts import OrderPaid, OrderRejected
from services.kit.db.idempotency import claim
from services.kit.db.statements import PreparedStatement
from services.kit.web.pages import UserPageQuery, newest_first
from services.notifications.domain import Kind, NewMessage
from services.notifications.models import Contact, Letter

ADD_LETTERS = PreparedStatement(
    "add_letters",
    ["uuid[]", "uuid[]", "uuid[]", "text", "text[]", "text[]"],
    """
    insert into letters (id, event_id, order_id, user_id, kind, subject, body)
    select gen_random_uuid(), event_id, order_id, user_id, $4, subject, body
    from unnest($1, $2, $3, $5, $6) as one (event_id, order_id, user_id, subject, body)
    order by event_id  -- in one order everywhere, so that no two transactions wait for each other
    on conflict do nothing
    returning event_id""",
)


def add_letters(
    connection: Connection, kind: Kind, letters: Sequence[tuple[OrderPaid | OrderRejected, str, str]]
) -> list[bool]:
    """Store a letter with its subject and body for each event; False for one that was handled before."""
    new = set(
        ADD_LETTERS.run(
            connection,
            [str(event.event_id) for event, _, _ in letters],
            [str(event.order_id) for event, _, _ in letters],
            [str(event.user_id) for event, _, _ in letters],
            str(kind),
            [subject for _, subject, _ in letters],
            [body for _, _, body in letters],
        ).scalars()
    )
    return [event.event_id in new for event, _, _ in letters]


def add_contact(session: Session, user_id: UUID, email: str) -> bool:
    """Store a user's address; False if it was known."""
    new = session.execute(
        insert(Contact).values(user_id=user_id, email=email).on_conflict_do_nothing().returning(Contact.user_id)
    )
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
