"""All the SQL of users.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.orm import Session

from services.contracts import Email, UserRegistered
from services.kit.db.idempotency import Claim, or_raise, take_turns
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused
from services.kit.event import Event
from services.kit.outbox.table import OutgoingEvent, StatementWithEvents
from services.kit.web.pages import PageQuery, newest_first
from services.users.domain import UserStatus, UserView
from services.users.models import RefusedUser, User


class UserRequest(NamedTuple):
    """A user whom a client asks for.

    The handler makes the id before it stores, so that storing twice finds the first row.
    """

    id: UUID
    idempotency_key: str | None
    name: str
    email: str
    traceparent: str | None = None


class StoredUser(NamedTuple):
    """The user that a request gets, None if another one has the address.

    `is_new` is false if the key was used before. `events` is what was written with the user, to be published after the
    commit.
    """

    user: UserView | None
    is_new: bool
    events: Sequence[OutgoingEvent] = ()


class UsersQuery(PageQuery):
    """The query of the list of users."""

    LIST: ClassVar[str] = "users"

    email: Annotated[
        Email | None, Field(description="Only the user with this address, in whatever upper and lower case")
    ] = None


#: The user and its event are written by one statement; see `StatementWithEvents`.
CLAIM = Claim(
    User,
    UserRequest,
    same=("name", "email"),
    also={"status": "'pending'", "retry_at": "now() + {retry_after}"},
    statement=StatementWithEvents,
    retry_after="interval",
)

ACTIVATE = PreparedStatement(
    "activate_users",
    """
    update users set status = 'active', trouble = null from unnest({ids}) as given (id)
    where users.id = given.id and users.status <> 'active'
    returning users.id, users.name, users.email, users.status, users.created_at""",
    ids="uuid[]",
)

#: The user is told of again, by a new event: whoever hears it finds done what was done.
REGISTER_AGAIN = StatementWithEvents(
    "register_users_again", "select id from users where id = any({ids}) and status <> 'active'", ids="uuid[]"
)

#: ... whatever its status, for who has forgotten its address.
TELL_AGAIN = StatementWithEvents("tell_of_users_again", "select id from users where id = any({ids})", ids="uuid[]")

KNOWN = PreparedStatement("known_users", "select id from users where id = any({ids})", ids="uuid[]")


def store_user(
    session: Session, request: UserRequest, event: UserRegistered, retry_after_s: float, lease_s: float
) -> StoredUser:
    """Store a pending user and its event, or find the answer that the key has had.

    A refusal is kept under the key too.
    """
    key = request.idempotency_key
    if key is not None:
        take_turns(session, key)  # as two tables may hold it
        refused = session.get(RefusedUser, key)
        if refused is not None and (refused.name, refused.email) != (request.name, request.email):
            raise KeyReused()
        if refused is not None:
            return StoredUser(None, is_new=False)
    outgoing = OutgoingEvent.of(event)
    [claimed] = CLAIM.run(
        session.connection(),
        [request],
        events={request.id: outgoing},
        lease_s=lease_s,
        retry_after=timedelta(seconds=retry_after_s),
    )
    row, is_new = or_raise(claimed)
    if row is not None:
        return StoredUser(UserView.model_validate(row), is_new, [outgoing] if is_new else [])
    if key is not None:
        session.execute(insert(RefusedUser).values(idempotency_key=key, name=request.name, email=request.email))
    return StoredUser(None, is_new=True)


def activate(connection: Connection, users: Sequence[UserView]) -> list[UserView]:
    """Record that billing has the accounts of `users`; return them as they are now. Doing it again changes nothing."""
    ACTIVATE.run(connection, ids=[user.id for user in users])
    return [user.model_copy(update={"status": UserStatus.ACTIVE}) for user in users]


def activate_ids(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, UserView]:
    """Record that billing has the accounts of these users; return those for which this is new."""
    return {row.id: UserView.model_validate(row) for row in ACTIVATE.run(connection, ids=list(ids))}


def register_again(connection: Connection, events: Mapping[UUID, Event], lease_s: float) -> list[OutgoingEvent]:
    """Write new events of those users that are still pending, by their ids; return the events that were written."""
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    rows = REGISTER_AGAIN.run(connection, ids=list(events), events=outgoing, lease_s=lease_s)
    return [outgoing[row.id] for row in rows]


def tell_again(connection: Connection, events: Mapping[UUID, Event], lease_s: float) -> None:
    """Write new events of users, by their ids."""
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    TELL_AGAIN.run(connection, ids=list(events), events=outgoing, lease_s=lease_s)


def get(session: Session, user_id: UUID) -> User | None:
    """Return a user, or None."""
    return session.get(User, user_id)


def newest(session: Session, page: UsersQuery, only: UUID | None = None) -> tuple[Sequence[User], str | None]:
    """Return a page of users, newest first: of all, or of no other than `only`."""
    users = select(User)
    if only is not None:
        users = users.where(User.id == only)
    if page.email is not None:
        users = users.where(func.lower(User.email) == func.lower(page.email))  # as `users_email` compares
    return newest_first(session, users, page, User.created_at, User.id)


def known(connection: Connection, user_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of `user_ids` that are users, pending ones included."""
    return list(KNOWN.run(connection, ids=list(user_ids)).scalars())
