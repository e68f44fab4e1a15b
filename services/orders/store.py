"""All the SQL of orders.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, or_, select
from sqlalchemy.orm import Session

from services.kit.db.idempotency import Claim
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused
from services.kit.event import Event
from services.kit.outbox.table import OutgoingEvent, StatementWithEvents
from services.kit.web.pages import UserPageQuery, newest_first
from services.orders.domain import OrderView, Reason, Status
from services.orders.models import Order


class OrderRequest(NamedTuple):
    """An order that a client asks for.

    The handler makes the ids before it stores, so that storing twice finds the first row.
    """

    id: UUID
    request_id: UUID
    idempotency_key: str | None
    user_id: UUID
    price: int


class StoredOrder(NamedTuple):
    """The order that a request gets; `is_new` if it has stored it, `promised` if it was answered 202 before."""

    order: OrderView
    is_new: bool
    promised: bool


class EndedOrder(NamedTuple):
    """An order with its final status."""

    id: UUID
    status: Status
    reason: Reason | None


CLAIM = Claim(
    Order,
    OrderRequest,
    same=("user_id", "price"),
    also={"status": "'pending'", "retry_at": "now() + {retry_after}"},
    retry_after="interval",
)

#: An order that somebody else holds is left out, and left to recovery. An order ends once: the update passes over those
#: that have ended. (`status = 'pending'` would say so too, but would tempt the planner to read all that are pending.)
END = StatementWithEvents(
    "end_orders",
    """
    with free as (
        select id from orders where id = any(array(select id from {ended})) for update skip locked
    )
    update orders set status = given.status, reason = given.reason, trouble = null
    from {ended}
    where orders.id = given.id and orders.status not in ('paid', 'rejected') and given.id in (select id from free)
    returning orders.id""",
    ended=EndedOrder,
)

PROMISE = PreparedStatement(
    "promise_order",
    "update orders set promised = true where id = {order_id} and status not in ('paid', 'rejected')",
    order_id="uuid",
)


def store_orders(
    connection: Connection, requests: Sequence[OrderRequest], retry_after_s: float
) -> list[StoredOrder | KeyReused]:
    """Store each request as a pending order, or find the order that it, or its key, has stored."""
    claimed = CLAIM.run(connection, requests, retry_after=timedelta(seconds=retry_after_s))
    return [
        one
        if isinstance(one, KeyReused)
        else StoredOrder(OrderView.model_validate(one.row), one.is_new, one.row.promised)  # type: ignore[union-attr]
        for one in claimed
    ]


def end_orders(
    connection: Connection, orders: Sequence[OrderView], events: Mapping[UUID, Event], lease_s: float
) -> tuple[list[OrderView], Iterable[OutgoingEvent]]:
    """Give pending orders their final status, and write the event of each, if it has one.

    Return the orders as they are now, and the events that this call wrote. An order that had ended keeps its status; a
    locked one stays pending.
    """
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    rows = [EndedOrder(order.id, order.status, order.reason) for order in orders]
    ended = {row.id for row in END.run(connection, ended=rows, events=outgoing, lease_s=lease_s)}
    others = find(connection, [order.id for order in orders if order.id not in ended])
    return (
        [others.get(order.id, order) for order in orders],
        [event for id_, event in outgoing.items() if id_ in ended],
    )


def find(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, OrderView]:
    """Return these orders, by their id."""
    if not ids:
        return {}
    rows = connection.execute(select(Order.__table__).where(Order.id.in_(ids)))
    return {row.id: OrderView.model_validate(row) for row in rows}


def promise(connection: Connection, order_id: UUID) -> tuple[OrderView, bool]:
    """Record that a pending order is promised to its client by a 202, unless the order has ended meanwhile.

    Return the order as it is now, and whether it is promised.
    """
    PROMISE.run(connection, order_id=order_id)
    row = connection.execute(select(Order.__table__).where(Order.id == order_id)).one()
    return OrderView.model_validate(row), row.promised


def get(session: Session, order_id: UUID) -> Order | None:
    """Return an order, or None."""
    return session.get(Order, order_id)


def newest(session: Session, page: UserPageQuery) -> tuple[Sequence[Order], str | None]:
    """Return a page of orders, newest first, without those that were never accepted.

    Those are orders of a user who does not exist, unless they were answered 202.
    """
    orders = select(Order).where(or_(Order.reason.is_(None), Order.reason != Reason.ACCOUNT_NOT_FOUND, Order.promised))
    if page.user_id is not None:
        orders = orders.where(Order.user_id == page.user_id)
    return newest_first(session, orders, page, Order.created_at, Order.id)
