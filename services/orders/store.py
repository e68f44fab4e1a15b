"""All the SQL of orders. Each function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, or_, select
from sqlalchemy.orm import Session

from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused
from services.kit.outbox.relay import Envelope
from services.kit.web.pages import UserPageQuery, newest_first
from services.orders.domain import NewOrder, OrderView, Reason, Status, announcement
from services.orders.models import Order


class Asked(NamedTuple):
    """An order that a client asks for: the ids that this request gives it, its Idempotency-Key, what it holds."""

    id: UUID
    request_id: UUID
    key: str | None
    order: NewOrder


class Claimed(NamedTuple):
    """The order that was stored for a request, and whether this request has stored it."""

    order: OrderView
    is_new: bool
    promised: bool


#: The ids are the caller's, so that to store an order again is to find it stored.
CLAIM = PreparedStatement(
    "claim_orders",
    ["uuid[]", "uuid[]", "text[]", "uuid[]", "bigint[]", "interval"],
    """
    insert into orders (id, request_id, idempotency_key, user_id, price, status, retry_at)
    select id, request_id, key, user_id, price, 'pending', now() + $6
    from unnest($1, $2, $3, $4, $5) as one (id, request_id, key, user_id, price)
    order by key  -- in one order everywhere, so that no two transactions wait for each other
    on conflict do nothing
    returning id, created_at""",
)

#: Status and event in one statement: an order never has the one without the other. An order that somebody else holds
#: is left out, and left to recovery.
FINISH = PreparedStatement(
    "finish_orders",
    ["uuid[]", "text[]", "text[]", "uuid[]", "text[]", "text[]", "interval"],
    """
    with free as (
        select id from orders where id = any($1) for update skip locked
    ), finished as (
        update orders set status = one.status, reason = one.reason, trouble = null
        from unnest($1, $2, $3, $4, $5, $6) as one (id, status, reason, event_id, type, body)
        -- pending, or else another one was faster; `= 'pending'` would tempt the planner to read all that are pending
        where orders.id = one.id and orders.status not in ('paid', 'rejected') and one.id in (select id from free)
        returning orders.id, event_id, type, body
    ), told as (
        insert into outbox (event_id, type, body, claimed_until)
        select event_id, type, cast(body as jsonb), now() + $7 from finished where event_id is not null
    )
    select id, cast(event_id as text) from finished""",
)

PROMISE = PreparedStatement(
    "promise_order",
    ["uuid"],
    """
    update orders set promised = true where id = $1 and status not in ('paid', 'rejected')""",
)


def claim_orders(connection: Connection, asked: Sequence[Asked], retry_after_s: float) -> list[Claimed | KeyReused]:
    """Store each as a pending order under its key, or find the one that the key, or the request itself, has stored."""
    stored = CLAIM.run(
        connection,
        [str(one.id) for one in asked],
        [str(one.request_id) for one in asked],
        [one.key for one in asked],
        [str(one.order.user_id) for one in asked],
        [one.order.price for one in asked],
        timedelta(seconds=retry_after_s),
    )
    created_at = {row.id: row.created_at for row in stored}
    found: dict[UUID | str | None, Row[Any]] = {}
    if others := [one for one in asked if one.id not in created_at]:
        for row in connection.execute(
            select(Order.__table__).where(
                or_(
                    Order.idempotency_key.in_({one.key for one in others if one.key is not None}),
                    Order.id.in_({one.id for one in others}),
                )
            )
        ):
            found[row.id] = found[row.idempotency_key] = row
    return [
        Claimed(
            OrderView(
                id=one.id,
                user_id=one.order.user_id,
                price=one.order.price,
                status=Status.PENDING,
                reason=None,
                created_at=created_at[one.id],
            ),
            is_new=True,
            promised=False,
        )
        if one.id in created_at
        else replay(found[one.id if one.id in found else one.key], one)
        for one in asked
    ]


def replay(order: Row[Any], asked: Asked) -> Claimed | KeyReused:
    """What a request gets whose key, or which itself, has stored `order` before."""
    if (order.user_id, order.price) != (asked.order.user_id, asked.order.price):
        return KeyReused()
    return Claimed(OrderView.model_validate(order), is_new=order.id == asked.id, promised=order.promised)


def finish(
    connection: Connection, orders: Sequence[OrderView], lease_s: float
) -> tuple[list[Envelope], list[OrderView]]:
    """Give pending orders the status and reason of `orders`, and the outbox the events that tell of it.

    Gives the events of those orders that were still pending, as whoever was faster has told of the others; and all
    orders as they are now: one that somebody else holds is still pending.
    """
    rows = [Envelope.of(event) if (event := announcement(order)) else None for order in orders]
    finished = {
        row.id: row.event_id
        for row in FINISH.run(
            connection,
            [str(order.id) for order in orders],
            [str(order.status) for order in orders],
            [order.reason and str(order.reason) for order in orders],
            [row and row.event_id for row in rows],
            [row and row.type for row in rows],
            [row and row.body for row in rows],
            timedelta(seconds=lease_s),
        )
    }
    events = [row for order, row in zip(orders, rows, strict=True) if row and finished.get(order.id) == row.event_id]
    others = {order.id for order in orders if order.id not in finished}
    now = (
        {
            row.id: OrderView.model_validate(row)
            for row in connection.execute(select(Order.__table__).where(Order.id.in_(others)))
        }
        if others
        else {}
    )
    return events, [now.get(order.id, order) for order in orders]


def promise(connection: Connection, order_id: UUID) -> tuple[OrderView, bool]:
    """Write down that the client is told of a pending order that it is accepted, unless it has ended meanwhile.

    Gives the order as it is now, and whether it is promised.
    """
    PROMISE.run(connection, str(order_id))
    row = connection.execute(select(Order.__table__).where(Order.id == order_id)).one()
    return OrderView.model_validate(row), row.promised


def get(session: Session, order_id: UUID) -> Order | None:
    return session.get(Order, order_id)


def newest(session: Session, page: UserPageQuery) -> tuple[Sequence[Order], str | None]:
    """Orders, newest first. Those that were never accepted, for want of an account, are nobody's and are left out."""
    orders = select(Order).where(or_(Order.reason.is_(None), Order.reason != Reason.ACCOUNT_NOT_FOUND, Order.promised))
    if page.user_id is not None:
        orders = orders.where(Order.user_id == page.user_id)
    return newest_first(session, orders, page, Order.created_at, Order.id)
