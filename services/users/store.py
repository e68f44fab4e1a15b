"""All the SQL of users. Each function works in the caller's transaction."""
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services.common.idempotency import claim
from services.users.domain import NewUser, Status
from services.users.models import User


class EmailTaken(Exception):
    """Another user has this e-mail address, without regard to case."""


def claim_user(session: Session, key: str | None, new: NewUser, retry_after_s: float) -> tuple[User, bool]:
    """Store a pending user under `key`, or find the one that the key has stored; say which."""
    user, is_new = claim(session, User, key, {"name": new.name, "email": new.email},
                         status=Status.PENDING, retry_at=func.now() + timedelta(seconds=retry_after_s))
    if user is None:
        raise EmailTaken()
    return user, is_new


def activate(session: Session, user_id: UUID) -> User:
    """Record that billing has the user's account. Doing it again changes nothing."""
    session.execute(update(User).where(User.id == user_id, User.status == Status.PENDING).values(status=Status.ACTIVE))
    return session.scalars(select(User).where(User.id == user_id).execution_options(populate_existing=True)).one()


def get(session: Session, user_id: UUID) -> User | None:
    return session.get(User, user_id)


def claim_pending(session: Session, limit: int, retry_after_s: float) -> Sequence[User]:
    """Take up to `limit` users that are due for another try, which no other replica has taken."""
    due = (select(User.id).where(User.status == Status.PENDING, User.retry_at < func.now())
           .order_by(User.retry_at).limit(limit).with_for_update(skip_locked=True))
    return session.scalars(update(User).where(User.id.in_(due))
                           .values(retry_at=func.now() + timedelta(seconds=retry_after_s)).returning(User)).all()


def count_pending(session: Session) -> int:
    return session.scalars(select(func.count()).where(User.status == Status.PENDING)).one()
