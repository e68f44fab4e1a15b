"""All the SQL of notifications.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from services.contracts import OrderPaid, OrderRejected, PaymentAccepted, PaymentRefused
from services.kit.db.commits import FINAL, Position
from services.kit.db.idempotency import Claim, or_raise
from services.kit.db.statements import PreparedStatement
from services.kit.feed import Entry
from services.kit.ids import new_id
from services.kit.web.pages import UserPageQuery, newest_first
from services.notifications.domain import LetterKind, LetterView
from services.notifications.models import Letter


class NewLetter(NamedTuple):
    """The letter of an event, as a row."""

    id: UUID
    event_id: UUID
    order_id: UUID
    user_id: UUID
    kind: LetterKind
    subject: str
    body: str

    @classmethod
    def of(
        cls,
        kind: LetterKind,
        event: OrderPaid | OrderRejected | PaymentAccepted | PaymentRefused,
        subject: str,
        body: str,
    ) -> "NewLetter":
        return cls(new_id(), event.event_id, event.order_id, event.user_id, kind, subject, body)


class NewContact(NamedTuple):
    """The address of a user, as a row."""

    user_id: UUID
    email: str


class MessageRequest(NamedTuple):
    """A message that a client asks for.

    The handler makes the id before it stores, so that storing twice finds the first row.
    """

    id: UUID
    idempotency_key: str | None
    user_id: UUID | None
    email: str | None
    subject: str
    body: str


class LettersQuery(UserPageQuery):
    """The query of the list of letters."""

    LIST: ClassVar[str] = "letters"

    order_id: Annotated[UUID | None, Field(description="Only the letter about this order")] = None


class Wanted(NamedTuple):
    """Letters that somebody follows: `most` of those of a user, or of everybody, after a position."""

    user_id: UUID | None
    history: int
    transaction: int
    id: UUID
    most: int

    @classmethod
    def after(cls, position: Position, user_id: UUID | None, most: int) -> "Wanted":
        return cls(user_id, *position, most)


#: `event_id` and `order_id` are unique. They make the handler an idempotent receiver: an event that comes again stores
#: nothing.
ADD_LETTERS = PreparedStatement(
    "add_letters",
    """
    insert into letters (id, event_id, order_id, user_id, kind, subject, body)
    select id, event_id, order_id, user_id, kind, subject, body from {letters}
    order by event_id  -- always in the same sequence, to avoid deadlocks
    on conflict do nothing
    returning event_id""",
    letters=NewLetter,
)

ADD_CONTACTS = PreparedStatement(
    "add_contacts",
    """
    insert into contacts (user_id, email) select user_id, email from {contacts} order by user_id
    on conflict do nothing returning user_id""",
    contacts=NewContact,
)

#: The letters after a position, those of a user and those of everybody by an index each.
AFTER = f"(transaction, id) > (given.transaction::text::xid8, given.id) and {FINAL}"
COMMITTED = PreparedStatement(
    "committed_letters",
    f"""
    select given.number, given.history, letter.*, coalesce(letter.own_email, contacts.email) as email
    from {{wanted}} cross join lateral (
        (select transaction, id, user_id, order_id, email as own_email, kind, subject, body, created_at
        from letters where user_id = given.user_id and {AFTER} order by letters.transaction, id limit given.most)
        union all
        (select transaction, id, user_id, order_id, email as own_email, kind, subject, body, created_at
        from letters where given.user_id is null and {AFTER} order by letters.transaction, id limit given.most)
    ) as letter left join contacts on contacts.user_id = letter.user_id
    order by given.number, letter.transaction, letter.id""",
    wanted=Wanted,
)

CLAIM = Claim(
    Letter,
    MessageRequest,
    same=("user_id", "email", "subject", "body"),
    scope="user_id",
    also={"kind": f"'{LetterKind.MESSAGE}'"},
)


def add_letters(connection: Connection, letters: Sequence[NewLetter]) -> list[bool]:
    """Store letters; return for each whether its event was new, False if it was handled before."""
    new = set(ADD_LETTERS.run(connection, letters=letters).scalars())
    return [letter.event_id in new for letter in letters]


def add_contacts(connection: Connection, contacts: Sequence[NewContact]) -> list[bool]:
    """Store the addresses of users; return for each whether it was new."""
    new = set(ADD_CONTACTS.run(connection, contacts=contacts).scalars())
    return [contact.user_id in new for contact in contacts]


def store_message(session: Session, request: MessageRequest) -> tuple[Letter, bool]:
    """Store a message under its key, or find the one that the key has stored; return it, and whether it is new."""
    [claimed] = CLAIM.run(session.connection(), [request])
    row, is_new = or_raise(claimed)
    assert row is not None  # no other unique column can have refused it: all are null
    letter = session.get(Letter, row.id)  # with the address of its user, if it is known
    assert letter is not None
    return letter, is_new


def get(session: Session, letter_id: UUID) -> Letter | None:
    """Return a letter, or None."""
    return session.get(Letter, letter_id)


def newest(session: Session, page: LettersQuery) -> tuple[Sequence[Letter], str | None]:
    """Return a page of letters, newest first."""
    letters = select(Letter)
    if page.order_id is not None:
        letters = letters.where(Letter.order_id == page.order_id)  # one at the most
    return newest_first(session, letters, page, Letter.created_at, Letter.id, [(Letter.user_id, page.user_id)])


def committed(connection: Connection, wanted: Sequence[Wanted]) -> list[list[Entry]]:
    """Return for each the letters that it wants, in the order in which they were committed."""
    rows = COMMITTED.run(connection, wanted=wanted).all()
    found: list[list[Entry]] = [[] for _ in wanted]
    for row in rows:
        position = Position(row.history, int(row.transaction), row.id)
        found[row.number - 1].append(Entry(position, row.kind, LetterView.model_validate(row)))
    return found
