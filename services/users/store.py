"""All the SQL of users. Each function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, func, insert
from sqlalchemy.orm import Session

from services.kit.db.database import Prepared
from services.kit.db.idempotency import KeyReused, claim, take_turns
from services.users.domain import NewUser, Status, UserView
from services.users.models import RefusedUser, User


class Claimed(NamedTuple):
    """The user of a request, None if another one has the address; and whether this is the first answer to it."""

    user: UserView | None
    is_new: bool


ACTIVATE = Prepared(
    "activate_users",
    ["uuid[]"],
    """
    update users set status = 'active', trouble = null from unnest($1) as one (id)
    where users.id = one.id and users.status <> 'active'""",
)

#: What was taken together comes again at different times, so that one that breaks its round is with others then.
DUE = Prepared(
    "claim_pending_users",
    ["integer", "interval"],
    """
    update users set retry_at = now() + $2 * (1 + random() / 4), attempts = attempts + 1
    where id in (select id from users where status = 'pending' and retry_at < now()
                 order by retry_at limit $1 for update skip locked)
    returning id, name, email, status, created_at""",
)

TROUBLED = Prepared(
    "troubled_users",
    ["uuid[]", "text[]", "interval"],
    """
    update users set trouble = one.trouble, retry_at = now() + least(attempts, 20) * $3
    from unnest($1, $2) as one (id, trouble)
    where users.id = one.id and users.status <> 'active'""",
)

WAITING = Prepared(
    "count_pending_users",
    ["interval"],
    """
    select count(*) as pending, count(*) filter (where created_at < now() - $1) as stuck
    from users where status = 'pending'""",
)

KNOWN = Prepared("known_users", ["uuid[]"], "select id from users where id = any($1)")


def claim_user(session: Session, key: str | None, new: NewUser, retry_after_s: float) -> Claimed:
    """Store a pending user under `key`, or find the answer that the key has had; a refusal is kept under it too."""
    if key is not None:
        take_turns(session, key)  # as two tables may hold it
        refused = session.get(RefusedUser, key)
        if refused is not None and (refused.name, refused.email) != (new.name, new.email):
            raise KeyReused()
        if refused is not None:
            return Claimed(None, is_new=False)
    user, is_new = claim(
        session,
        User,
        key,
        {"name": new.name, "email": new.email},
        status=Status.PENDING,
        retry_at=func.now() + timedelta(seconds=retry_after_s),
    )
    if user is not None:
        return Claimed(UserView.model_validate(user), is_new)
    if key is not None:
        session.execute(insert(RefusedUser).values(idempotency_key=key, name=new.name, email=new.email))
    return Claimed(None, is_new=True)


def activate(connection: Connection, users: Sequence[UserView]) -> list[UserView]:
    """Record that billing has the accounts of `users`; give them as they are now. Doing it again changes nothing."""
    ACTIVATE.run(connection, [str(user.id) for user in users])
    return [user.model_copy(update={"status": Status.ACTIVE}) for user in users]


def get(session: Session, user_id: UUID) -> User | None:
    return session.get(User, user_id)


def known(connection: Connection, user_ids: Sequence[UUID]) -> list[UUID]:
    """Those of `user_ids` that are users, pending ones included."""
    return list(KNOWN.run(connection, [str(user_id) for user_id in user_ids]).scalars())


def claim_pending(connection: Connection, limit: int, retry_after_s: float) -> list[UserView]:
    """Take up to `limit` users that are due for another try, which no other replica has taken."""
    return [UserView.model_validate(row) for row in DUE.run(connection, limit, timedelta(seconds=retry_after_s))]


def note_trouble(connection: Connection, troubles: dict[UUID, str], retry_after_s: float) -> None:
    """Write down what went wrong with pending users, each of which waits longer than the last time."""
    TROUBLED.run(connection, [str(id_) for id_ in troubles], list(troubles.values()), timedelta(seconds=retry_after_s))


def count_pending(connection: Connection, stuck_after_s: float) -> tuple[int, int]:
    """How many users are pending, and how many of them for longer than `stuck_after_s`."""
    row = WAITING.run(connection, timedelta(seconds=stuck_after_s)).one()
    return int(row.pending), int(row.stuck)
