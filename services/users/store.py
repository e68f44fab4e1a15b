"""All the SQL of users. Each function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, func, insert
from sqlalchemy.orm import Session

from services.kit.db.idempotency import claim, take_turns
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused
from services.users.domain import NewUser, Status, UserView
from services.users.models import RefusedUser, User


class Claimed(NamedTuple):
    """The user of a request, None if another one has the address; and whether this is the first answer to it."""

    user: UserView | None
    is_new: bool


ACTIVATE = PreparedStatement(
    "activate_users",
    ["uuid[]"],
    """
    update users set status = 'active', trouble = null from unnest($1) as one (id)
    where users.id = one.id and users.status <> 'active'""",
)

KNOWN = PreparedStatement("known_users", ["uuid[]"], "select id from users where id = any($1)")


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
