"""All the SQL of orders. Each function works in the caller's transaction."""
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from services.common.idempotency import claim
from services.common.pages import UserPageQuery, newest_first
from services.contracts import Outcome
from services.orders.domain import NewOrder, Status
from services.orders.models import Order


def claim_order(session: Session, key: str | None, new: NewOrder, retry_after_s: float) -> tuple[Order, bool]:
    """Store a pending order under `key`, or find the one that the key has stored; say which."""
    order, is_new = claim(session, Order, key, {"user_id": new.user_id, "price": new.price},
                          status=Status.PENDING, retry_at=func.now() + timedelta(seconds=retry_after_s))
    assert order is not None  # no other unique column can have refused it: its id is new
    return order, is_new


def finish(session: Session, order_id: UUID, status: Status, reason: Outcome | None) -> Order | None:
    """Give a pending order its final status; None if another one was faster."""
    return session.scalars(
        update(Order).where(Order.id == order_id, Order.status == Status.PENDING)
        .values(status=status, reason=reason).returning(Order)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one_or_none()


def get(session: Session, order_id: UUID) -> Order | None:
    return session.get(Order, order_id)


def existing(session: Session, order_id: UUID) -> Order:
    return session.get_one(Order, order_id)


def newest(session: Session, page: UserPageQuery) -> tuple[Sequence[Order], str | None]:
    """Orders, newest first. Those answered with 404, for want of an account, are nobody's and are left out."""
    orders = select(Order).where(or_(Order.reason.is_(None), Order.reason != Outcome.ACCOUNT_NOT_FOUND))
    if page.user_id is not None:
        orders = orders.where(Order.user_id == page.user_id)
    return newest_first(session, orders, page, Order.created_at, Order.id)


def claim_pending(session: Session, limit: int, retry_after_s: float) -> Sequence[Order]:
    """Take up to `limit` orders that are due for another try, which no other replica has taken."""
    due = (select(Order.id).where(Order.status == Status.PENDING, Order.retry_at < func.now())
           .order_by(Order.retry_at).limit(limit).with_for_update(skip_locked=True))
    return session.scalars(update(Order).where(Order.id.in_(due))
                           .values(retry_at=func.now() + timedelta(seconds=retry_after_s)).returning(Order)).all()


def count_pending(session: Session) -> int:
    return session.scalars(select(func.count()).where(Order.status == Status.PENDING)).one()
