"""All the SQL of orders. Each function works in the caller's transaction."""
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, or_, select, update
from sqlalchemy.orm import Session

from services.common.database import Prepared
from services.common.idempotency import KeyReused
from services.common.pages import UserPageQuery, newest_first
from services.common.relay import Envelope
from services.contracts import Outcome
from services.orders.domain import NewOrder, OrderView, Status, announcement
from services.orders.models import Order


class Asked(NamedTuple):
    """An order that a client asks for, and its Idempotency-Key."""

    key: str | None
    order: NewOrder


class Claimed(NamedTuple):
    """The order that was stored for a request, and whether this request has stored it."""

    order: OrderView
    is_new: bool


CLAIM = Prepared("claim_orders", ["uuid[]", "uuid[]", "bigint[]", "text[]", "interval"], """
    insert into orders (id, user_id, price, idempotency_key, status, retry_at)
    select id, user_id, price, key, 'pending', now() + $5
    from unnest($1, $2, $3, $4) as one (id, user_id, price, key)
    order by key  -- in one order everywhere, so that no two transactions wait for each other
    on conflict do nothing
    returning id, created_at""")

#: Status and event in one statement: an order never has the one without the other.
FINISH = Prepared("finish_orders", ["uuid[]", "text[]", "text[]", "uuid[]", "text[]", "text[]", "interval"], """
    with finished as (
        update orders set status = one.status, reason = one.reason
        from (select * from unnest($1, $2, $3, $4, $5, $6) as one (id, status, reason, event_id, type, body)
              order by id) as one
        -- pending, or else another one was faster; `= 'pending'` would tempt the planner to read all that are pending
        where orders.id = one.id and orders.status not in ('paid', 'rejected')
        returning event_id, type, body
    )
    insert into outbox (event_id, type, body, claimed_until)
    select event_id, type, cast(body as jsonb), now() + $7 from finished where event_id is not null
    returning cast(event_id as text)""")


def claim_orders(connection: Connection, asked: Sequence[Asked], retry_after_s: float) -> list[Claimed | KeyReused]:
    """Store each as a pending order under its key, or find the one that the key has stored."""
    ids = [uuid4() for _ in asked]
    stored = CLAIM.run(
        connection, [str(id_) for id_ in ids], [str(new.user_id) for _, new in asked],
        [new.price for _, new in asked], [key for key, _ in asked], timedelta(seconds=retry_after_s))
    created_at = {row.id: row.created_at for row in stored}
    found = {}
    if keys := {key for id_, (key, _) in zip(ids, asked, strict=True) if id_ not in created_at}:
        found = {order.idempotency_key: order
                 for order in connection.execute(select(Order.__table__).where(Order.idempotency_key.in_(keys)))}
    return [
        Claimed(OrderView(id=id_, user_id=new.user_id, price=new.price, status=Status.PENDING, reason=None,
                          created_at=created_at[id_]), is_new=True)
        if id_ in created_at else replay(found[key], new)
        for id_, (key, new) in zip(ids, asked, strict=True)]


def replay(order: Row[Any], new: NewOrder) -> Claimed | KeyReused:
    """What a request gets whose key has stored `order` before."""
    if (order.user_id, order.price) != (new.user_id, new.price):
        return KeyReused()
    return Claimed(OrderView.model_validate(order), is_new=False)


def finish(connection: Connection, orders: Sequence[OrderView], lease_s: float) -> list[Envelope]:
    """Give pending orders the status and reason of `orders`, and the outbox the events that tell of it.

    Gives the events of those orders that were still pending; whoever was faster has told of the others.
    """
    rows = [Envelope.of(event) if (event := announcement(order)) else None for order in orders]
    new = set(FINISH.run(
        connection, [str(order.id) for order in orders], [str(order.status) for order in orders],
        [order.reason and str(order.reason) for order in orders], [row and row.event_id for row in rows],
        [row and row.type for row in rows], [row and row.body for row in rows], timedelta(seconds=lease_s)).scalars())
    return [row for row in rows if row and row.event_id in new]


def get(session: Session, order_id: UUID) -> Order | None:
    return session.get(Order, order_id)


def newest(session: Session, page: UserPageQuery) -> tuple[Sequence[Order], str | None]:
    """Orders, newest first. Those answered with 404, for want of an account, are nobody's and are left out."""
    orders = select(Order).where(or_(Order.reason.is_(None), Order.reason != Outcome.ACCOUNT_NOT_FOUND))
    if page.user_id is not None:
        orders = orders.where(Order.user_id == page.user_id)
    return newest_first(session, orders, page, Order.created_at, Order.id)


def claim_pending(session: Session, limit: int, retry_after_s: float) -> list[OrderView]:
    """Take up to `limit` orders that are due for another try, which no other replica has taken."""
    due = (select(Order.id).where(Order.status == Status.PENDING, Order.retry_at < func.now())
           .order_by(Order.retry_at).limit(limit).with_for_update(skip_locked=True))
    orders = session.scalars(update(Order).where(Order.id.in_(due))
                             .values(retry_at=func.now() + timedelta(seconds=retry_after_s)).returning(Order))
    return [OrderView.model_validate(order) for order in orders]


def count_pending(session: Session) -> int:
    return session.scalars(select(func.count()).where(Order.status == Status.PENDING)).one()
