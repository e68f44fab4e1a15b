"""The entrypoints of orders. The flow of an order is `create_order`, `_settle`, `_settle_all` and `_end`."""

from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

from eventlet import Timeout
from nameko.dependency_providers import Config

from services.contracts import Outcome
from services.kit.amqp.rpc import RpcFailed, RpcProxy
from services.kit.batching import batched
from services.kit.busy import Busy
from services.kit.db.database import Database
from services.kit.errors import TEMPORARY, KeyReused, Unavailable
from services.kit.event import Event
from services.kit.outbox.provider import Outbox
from services.kit.recovery import NotYet, Recovery, is_outage
from services.kit.timers import every
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page, UserPageQuery
from services.kit.web.problems import RETRY_AFTER, not_found
from services.orders import models, store
from services.orders.domain import (
    NewOrder,
    OrderView,
    Reason,
    Status,
    apply_outcome,
    event_for,
    payment_for,
)
from services.orders.store import OrderRequest, StoredOrder


class AccountBusy(NotYet):
    """Somebody else holds the account: nothing was paid, and the order waits."""


class NoAccount(NotYet):
    """Billing has no account of this user, perhaps not yet: nothing was paid, and the order waits."""


class OrdersService:
    """Takes orders, asks billing to pay for them, and publishes that they were paid, or rejected for lack of money."""

    name = "orders"
    config = Config()
    db = Database(models.Base)
    outbox = Outbox(models.OutboxEvent)
    recovery = Recovery(models.Order, OrderView, ended=(Status.PAID, Status.REJECTED))
    billing = RpcProxy("billing")
    users = RpcProxy("users")
    busy = Busy()

    @http(
        "POST", "/orders", body=NewOrder, answers={201: OrderView, 202: OrderView, 404: None}, summary="Place an order"
    )
    def create_order(self, key: str | None, body: NewOrder) -> Reply:
        """Store the order as pending, then settle it; 202 while the outcome of the payment is not known."""
        order, is_new, promised = self._store.one(OrderRequest(uuid4(), uuid4(), key, body.user_id, body.price))
        if order.status == Status.PENDING:
            try:
                with Timeout(self._patience_s(), Unavailable("the outcome is not known in time")):
                    order = self._settle(order)
            except TEMPORARY:
                order, promised = self._promise(order)  # and `recover` asks billing again
        if order.reason == Reason.ACCOUNT_NOT_FOUND and not promised:
            raise not_found("account of this user", replayed=not is_new)
        status, headers = (202, RETRY_AFTER) if order.status == Status.PENDING else (201, {})
        return Reply(status, order, headers | {"Location": f"/orders/{order.id}"}, replayed=not is_new)

    def _patience_s(self) -> float:
        """Return how long a request waits for its order: longer than an RPC takes, and with time left to answer 202."""
        return float(self.config["RPC_TIMEOUT_S"] + self.config["REQUEST_TIMEOUT_S"]) / 2

    @batched()
    def _store(self, requests: Sequence[OrderRequest]) -> Sequence[StoredOrder | KeyReused]:
        with self.db.autocommit() as connection:
            return store.store_orders(connection, requests, self.config["RECOVERY_AFTER_S"])

    def _settle(self, order: OrderView) -> OrderView:
        """Settle the order together with others; in a round of its account if that is busy; alone if it has none."""
        try:
            return self._settle_together.one(order)
        except AccountBusy:
            return self._settle_busy.one(order)
        except NoAccount:
            return self._refuse(order)

    @batched(again=(RpcFailed,))
    def _settle_together(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        return self._settle_all(orders, wait=False)

    @batched(key=lambda order: order.user_id, again=(RpcFailed,))
    def _settle_busy(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        """Settle orders of one account that somebody else holds, in rounds of their own, which may wait for it.

        If the wait fails, no request waits for this account for a second, as each would occupy a worker.
        """
        account = orders[0].user_id
        if account in self.busy:
            return [AccountBusy()] * len(orders)
        results = self._settle_all(orders, wait=True)
        if any(isinstance(result, AccountBusy) for result in results):
            self.busy.add(account)
        return results

    def _settle_all(self, orders: Sequence[OrderView], wait: bool) -> list[OrderView | Exception]:
        """Ask billing, which pays for an order once; then record how the orders ended, with the events that say so."""
        outcomes = self.billing.pay_all(payments=[payment_for(order) for order in orders], wait=wait)
        if len(outcomes) != len(orders):
            raise RpcFailed(f"billing returned {len(outcomes)} outcomes for {len(orders)} payments")
        results = [read_outcome(order, outcome) for order, outcome in zip(orders, outcomes, strict=True)]
        ended = [result for result in results if isinstance(result, OrderView)]
        events = {order.id: event for order in ended if (event := event_for(order))}
        now = iter(self._end(ended, events))
        return [next(now) if isinstance(result, OrderView) else result for result in results]

    def _end(self, orders: Sequence[OrderView], events: Mapping[UUID, Event]) -> Sequence[OrderView]:
        """Record how orders ended, with their events, in one statement; return the orders as they are now."""
        if not orders:
            return []
        with self.db.autocommit() as connection:
            now, written = store.end_orders(connection, orders, events, self.outbox.lease_s)
        self.outbox.publish_soon(written)
        return now

    def _refuse(self, order: OrderView) -> OrderView:
        """Refuse an order whose user does not exist. If the user does, the account is on its way, and the order waits.

        Only the users service creates user ids, so an id that it does not know now will never be one.
        """
        if self.users.known_users(user_ids=[str(order.user_id)]):
            raise NoAccount()
        result = read_outcome(order, self.billing.refuse(**payment_for(order)))
        if isinstance(result, Exception):
            raise result
        return self._end([result], events={})[0]

    def _promise(self, order: OrderView) -> tuple[OrderView, bool]:
        """Record that a pending order is promised to its client by a 202; return the order as it is now."""
        with self.db.autocommit() as connection:
            return store.promise(connection, order.id)

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Settle the orders that a crash or an outage left pending; any number of replicas may do so at once."""
        self.recovery.run(self._settle_due)

    def _settle_due(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        results: list[OrderView | Exception] = self._settle_together.many(orders)
        for index, order in enumerate(orders):
            if isinstance(results[index], NoAccount):
                try:
                    results[index] = self._refuse(order)
                except Exception as error:
                    results[index] = error
                    if is_outage(error):
                        break  # the others without an account wait as well
        return results

    @http("GET", "/orders/<uuid:order_id>", answers={200: OrderView, 404: None}, summary="Show an order")
    def get_order(self, order_id: UUID) -> Reply:
        with self.db.get_session() as session:
            order = store.get(session, order_id)
        if order is None:
            raise not_found("such order")
        return Reply(200, OrderView.model_validate(order))

    @http("GET", "/orders", query=UserPageQuery, answers={200: Page[OrderView]}, summary="List orders, newest first")
    def list_orders(self, query: UserPageQuery) -> Reply:
        with self.db.get_session() as session:
            orders, next_ = store.newest(session, query)
        return Reply(200, Page[OrderView](items=[OrderView.model_validate(order) for order in orders], next=next_))


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
            return RpcFailed(f"billing returned an outcome that is not known here: {outcome!r}")
