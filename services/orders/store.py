"""All the SQL of orders.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, Row, select
from sqlalchemy.orm import Session

from services.kit.db.idempotency import Claim, Claimed
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused
from services.kit.event import Event
from services.kit.outbox.table import OutgoingEvent, StatementWithEvents
from services.kit.web.pages import UserPageQuery, newest_first
from services.orders.domain import OrderReason, OrderStatus, OrderView
from services.orders.models import SHOWN, Order


class OrderRequest(NamedTuple):
    """An order that a client asks for.

    The handler makes the ids before it stores, so that storing twice finds the first row.
    """

    id: UUID
    request_id: UUID
    idempotency_key: str | None
    user_id: UUID
    price: int
    promised: bool = False
    traceparent: str | None = None


class StoredOrder(NamedTuple):
    """The order that a request gets; `is_new` if it has stored it, `promised` if it was answered 202 before."""

    order: OrderView
    is_new: bool
    promised: bool


class Recorded(NamedTuple):
    """An order as it is now, and the event that was written with its end."""

    order: OrderView
    events: Sequence[OutgoingEvent] = ()


class EndedOrder(NamedTuple):
    """An order with its final status."""

    id: UUID
    status: OrderStatus
    reason: OrderReason | None


class OrdersQuery(UserPageQuery):
    """The query of the list of orders."""

    LIST: ClassVar[str] = "orders"

    status: Annotated[OrderStatus | None, Field(description="Only orders of this status")] = None


PENDING = {"status": "'pending'", "retry_at": "now() + {retry_after}"}
CLAIM = Claim(Order, OrderRequest, same=("user_id", "price"), scope="user_id", also=PENDING, retry_after="interval")
PLACE = Claim(
    Order,
    OrderRequest,
    same=("user_id", "price"),
    scope="user_id",
    also=PENDING,
    statement=StatementWithEvents,
    name="place_orders",
    retry_after="interval",
)

#: The order is placed again, with an event of its own: whoever hears it finds done what was done.
PLACE_AGAIN = StatementWithEvents(
    "place_orders_again",
    "select id from orders where id = any({ids}) and status not in ('paid', 'rejected')",
    ids="uuid[]",
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

#: ... and is told of again, for who has forgotten it.
TELL_AGAIN = StatementWithEvents(
    "tell_of_orders_again",
    "select id from orders where id = any({ids}) and status in ('paid', 'rejected')",
    ids="uuid[]",
)

PROMISE = PreparedStatement(
    "promise_orders",
    """
    update orders set promised = true
    where id = any(array(select id from orders where id = any({ids}) order by id for update))
        and status not in ('paid', 'rejected')""",
    ids="uuid[]",
)


def store_orders(
    connection: Connection, requests: Sequence[OrderRequest], retry_after_s: float
) -> list[StoredOrder | KeyReused]:
    """Store each request as a pending order, or find the order that it, or its key, has stored."""
    claimed = CLAIM.run(connection, requests, retry_after=timedelta(seconds=retry_after_s))
    return [_stored(one) for one in claimed]


def place_orders(
    connection: Connection,
    requests: Sequence[OrderRequest],
    events: Mapping[UUID, Event],
    retry_after_s: float,
    lease_s: float,
) -> tuple[list[StoredOrder | KeyReused], list[OutgoingEvent]]:
    """Store each request as `store_orders` does, with its event; return also the events that were written."""
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    claimed = PLACE.run(
        connection, requests, events=outgoing, lease_s=lease_s, retry_after=timedelta(seconds=retry_after_s)
    )
    stored = [_stored(one) for one in claimed]
    written = [outgoing[one.order.id] for one in stored if isinstance(one, StoredOrder) and one.order.id in outgoing]
    return stored, written


def _stored(claimed: Claimed | KeyReused) -> StoredOrder | KeyReused:
    if isinstance(claimed, KeyReused):
        return claimed
    row: Row[Any] = claimed.row  # type: ignore[assignment]  # nothing else in the table is unique
    return StoredOrder(OrderView.model_validate(row), claimed.is_new, row.promised)


def place_again(connection: Connection, events: Mapping[UUID, Event], lease_s: float) -> list[OutgoingEvent]:
    """Write new events of those orders that are still pending, by their ids; return the events that were written."""
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    rows = PLACE_AGAIN.run(connection, ids=list(events), events=outgoing, lease_s=lease_s)
    return [outgoing[row.id] for row in rows]


def end_orders(
    connection: Connection, orders: Sequence[OrderView], events: Mapping[UUID, Event], lease_s: float
) -> list[Recorded]:
    """Give pending orders their final status, and write the event of each, if it has one.

    Return the orders as they are now, with the events that this call wrote. An order that had ended keeps its status;
    a locked one stays pending.
    """
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    ended = end(connection, [EndedOrder(order.id, order.status, order.reason) for order in orders], outgoing, lease_s)
    others = find(connection, [order.id for order in orders if order.id not in ended])
    return [
        Recorded(order, [outgoing[order.id]] if order.id in outgoing else [])
        if order.id in ended
        else Recorded(others.get(order.id, order))
        for order in orders
    ]


def end(
    connection: Connection, orders: Sequence[EndedOrder], events: Mapping[UUID, OutgoingEvent], lease_s: float
) -> set[UUID]:
    """Give pending orders their final status, with their events; return the ids of those that have got it by this."""
    return {row.id for row in END.run(connection, ended=orders, events=events, lease_s=lease_s)}


def tell_again(connection: Connection, events: Mapping[UUID, Event], lease_s: float) -> None:
    """Write new events of orders that have ended, by their ids."""
    outgoing = {id_: OutgoingEvent.of(event) for id_, event in events.items()}
    TELL_AGAIN.run(connection, ids=list(events), events=outgoing, lease_s=lease_s)


def find(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, OrderView]:
    """Return these orders, by their id."""
    if not ids:
        return {}
    rows = connection.execute(select(Order.__table__).where(Order.id.in_(ids)))
    return {row.id: OrderView.model_validate(row) for row in rows}


def promise(connection: Connection, ids: Sequence[UUID]) -> list[tuple[OrderView, bool]]:
    """Record that pending orders are promised to their clients by a 202, unless they have ended meanwhile.

    Return the orders as they are now, and whether each is promised.
    """
    PROMISE.run(connection, ids=list(ids))
    rows = {row.id: row for row in connection.execute(select(Order.__table__).where(Order.id.in_(ids)))}
    return [(OrderView.model_validate(rows[id_]), rows[id_].promised) for id_ in ids]


def get(session: Session, order_id: UUID) -> Order | None:
    """Return an order, or None."""
    return session.get(Order, order_id)


def newest(session: Session, page: OrdersQuery) -> tuple[Sequence[Order], str | None]:
    """Return a page of orders, newest first, without those that were never accepted."""
    of = [(Order.user_id, page.user_id), (Order.status, page.status)]
    return newest_first(session, select(Order).where(SHOWN), page, Order.created_at, Order.id, of)
