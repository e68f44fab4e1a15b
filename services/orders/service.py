"""What the three styles of orders have in common. The flow of an order is `create_order`, `_settle` and `_end`.

`_settle` is what a style is: how it learns what became of the payment. See `broker.py`, `http.py` and `events.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from eventlet import Timeout
from nameko.dependency_providers import Config

from services.contracts import ORDER_ID, Outcome
from services.kit.batching import BatchedMethod, batched
from services.kit.db.database import Database
from services.kit.errors import TEMPORARY, CallFailed, KeyReused, Unavailable
from services.kit.ids import new_id
from services.kit.outbox.provider import Outbox
from services.kit.recovery import NotYet, Recovery
from services.kit.timers import every
from services.kit.tracing import note, traceparent
from services.kit.waiting import Ends
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page
from services.kit.web.problems import RETRY_AFTER
from services.orders import models, store
from services.orders.domain import NewOrder, OrderReason, OrderStatus, OrderView, apply_outcome, event_for
from services.orders.store import OrderRequest, OrdersQuery, Recorded, StoredOrder
from services.problems import not_found


class AccountBusy(NotYet):
    """Somebody else holds the account: nothing was paid, and the order waits."""


class NoAccount(NotYet):
    """Billing has no account of this user, perhaps not yet: nothing was paid, and the order waits."""


class Orders:
    """Takes orders, has billing pay for them, and tells how they ended."""

    name = "orders"
    config = Config()
    db = Database(models.Base)
    recovery = Recovery(models.Order, OrderView, ended=(OrderStatus.PAID, OrderStatus.REJECTED))
    ends = Ends(models.Order, OrderView, ended=(OrderStatus.PAID, OrderStatus.REJECTED))

    @http(
        "POST",
        "/orders",
        needs=Needs("orders:write", Owner.BODY, partial(not_found, "account")),
        body=NewOrder,
        answers={201: OrderView, 202: OrderView, 404: "account-not-found"},
        summary="Place an order",
        waits=True,
    )
    def create_order(self, key: str | None, body: NewOrder, wait_s: float | None) -> Reply:
        """Store the order as pending, then settle it; 202 while the outcome of the payment is not known.

        201 is not success: read `status`. The order has ended, `paid` or `rejected`.
        """
        promised = self._promises_at_once(wait_s)
        request = OrderRequest(new_id(), new_id(), key, body.user_id, body.price, promised, traceparent())
        stored = self._store.one(request)
        order = stored.order
        if order.status == OrderStatus.PENDING:
            try:
                with Timeout(self._patience_s(wait_s), Unavailable("the outcome is not known in time")):
                    order = self._settle(order)
            except TEMPORARY:
                pass  # `recover` settles it
        later = partial(self._answer_later, stored) if order.status == OrderStatus.PENDING else None
        return answer(order, stored.is_new, stored.promised, later)

    _store: BatchedMethod  # OrderRequest -> StoredOrder: store the order as pending, or find what its key has stored

    def _settle(self, order: OrderView) -> OrderView:
        """Return the order as it ends; any of TEMPORARY while that is not known, and `recover` will find out."""
        raise NotImplementedError

    def _settle_due(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        """Settle orders that a crash or an outage left pending; return the order or an exception for each."""
        raise NotImplementedError

    def _promises_at_once(self, wait_s: float | None) -> bool:
        """Return whether an order is stored as promised, because it is going to be answered 202."""
        return False

    def _patience_s(self, wait_s: float | None) -> float:
        """Return how long a worker waits for an order: longer than a call takes, and with time left to answer 202."""
        patience_s = float(self.config["RPC_TIMEOUT_S"] + self.config["REQUEST_TIMEOUT_S"]) / 2
        return patience_s if wait_s is None else min(patience_s, wait_s)

    def _answer_later(self, stored: StoredOrder, wait_s: float) -> Reply:
        """Wait for the end of a pending order, without a worker; promise it, if the end does not come in time."""
        if wait_s and (ended := self.ends.wait(stored.order.id, wait_s)):
            return answer(ended, stored.is_new, stored.promised)
        if stored.promised:
            return answer(*stored)
        order, promised = self._promise.one(stored.order.id)
        return answer(order, stored.is_new, promised)

    @batched()
    def _promise(self, ids: Sequence[UUID]) -> Sequence[tuple[OrderView, bool]]:
        """Record that pending orders are promised to their clients by a 202; return the orders as they are now."""
        with self.db.autocommit() as connection:
            return store.promise(connection, ids)

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Settle the orders that a crash or an outage left pending; any number of replicas may do so at once."""
        self.recovery.run(self._settle_due)

    @http(
        "GET",
        "/orders/<uuid:order_id>",
        needs=Needs("orders:read", Owner.ANSWER, partial(not_found, "order")),
        answers={200: OrderView, 404: "order-not-found"},
        summary="Show an order",
        waits=True,
        ends=True,
    )
    def get_order(self, order_id: UUID, wait_s: float | None) -> Reply:
        """Show how the order is now."""
        with self.db.get_session() as session:
            order = store.get(session, order_id)
        if order is None:
            raise not_found("order")
        return self.ends.show(OrderView.model_validate(order))

    @http(
        "GET",
        "/orders",
        needs=Needs("orders:read", Owner.QUERY),
        query=OrdersQuery,
        answers={200: Page[OrderView]},
        summary="List orders, newest first",
    )
    def list_orders(self, query: OrdersQuery) -> Reply:
        """List the orders of a user or of everybody, of one status or of any; without those that were answered 404."""
        with self.db.get_session() as session:
            orders, next_ = store.newest(session, query)
        return Reply(200, Page[OrderView](items=[OrderView.model_validate(order) for order in orders], next=next_))


class AskingOrders(Orders):
    """What the styles have in common in which orders asks billing, and then tells how an order ended."""

    outbox: Outbox

    @batched()
    def _store(self, requests: Sequence[OrderRequest]) -> Sequence[StoredOrder | KeyReused]:
        with self.db.autocommit() as connection:
            return store.store_orders(connection, requests, self.config["RECOVERY_AFTER_S"])

    def _end(self, orders: Sequence[OrderView]) -> Sequence[Recorded]:
        """Record how orders ended, with the events that say so, in one statement."""
        if not orders:
            return []
        events = {order.id: event for order in orders if (event := event_for(order))}
        with self.db.autocommit() as connection:
            return store.end_orders(connection, orders, events, self.outbox.lease_s)


def answer(order: OrderView, is_new: bool, promised: bool, later: Callable[[float], Reply] | None = None) -> Reply:
    """Return what a client is told of its order: 201 if it has ended, 202 while it is pending.

    404 if it was refused because there is no such user, and nobody was answered 202 before.
    """
    note(ORDER_ID, order.id)
    if order.reason == OrderReason.ACCOUNT_NOT_FOUND and not promised:
        raise not_found("account", replayed=not is_new)
    status, headers = (202, RETRY_AFTER) if order.status == OrderStatus.PENDING else (201, {})
    return Reply(status, order, headers | {"Location": f"/orders/{order.id}"}, replayed=not is_new, later=later)


def read_outcome(order: OrderView, outcome: str) -> OrderView | Exception:
    """Return the order as an outcome of billing ends it, or the error with which it stays pending."""
    match outcome:
        case Outcome.BUSY:
            return AccountBusy()
        case Outcome.ACCOUNT_NOT_FOUND:
            return NoAccount()
        case Outcome.ACCEPTED | Outcome.INSUFFICIENT_FUNDS | Outcome.REFUSED | Outcome.MISMATCH:
            return apply_outcome(order, Outcome(outcome))
        case _:
            return CallFailed(f"billing returned an outcome that is not known here: {outcome!r}")
