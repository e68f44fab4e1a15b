"""The entrypoints of orders. The flow of an order is `create_order` and `_settle`."""
from collections.abc import Sequence
from uuid import UUID

from nameko.dependency_providers import Config

from services.common import metrics
from services.common.database import Database
from services.common.http import Reply, http
from services.common.idempotency import KeyReused
from services.common.outbox import Outbox
from services.common.pages import Page, UserPageQuery
from services.common.problems import PASSING, not_found
from services.common.rpc import RpcProxy
from services.common.timers import every
from services.common.together import together
from services.contracts import Outcome
from services.orders import models, store
from services.orders.domain import NewOrder, OrderView, Status, payment, verdict
from services.orders.store import Asked, Claimed


class OrdersService:
    """Takes orders, asks billing for their payment, and tells how they ended."""

    name = "orders"
    config = Config()
    db = Database(models.Base)
    outbox = Outbox(models.Outbox)
    billing = RpcProxy("billing")

    @http("POST", "/orders", body=NewOrder, answers={201: OrderView, 202: OrderView, 404: None},
          summary="Place an order")
    def create_order(self, key: str | None, body: NewOrder) -> Reply:
        """Store the order as pending, then settle it; 202 while the outcome of the payment is not known."""
        order, is_new = self._store(Asked(key, body))
        if order.status == Status.PENDING:
            try:
                order = self._settle(order)
            except PASSING:
                pass  # it stays pending, and `recover` asks billing again
        if order.reason == Outcome.ACCOUNT_NOT_FOUND:
            raise not_found("account of this user", replayed=not is_new)
        return Reply(202 if order.status == Status.PENDING else 201, order,
                     {"Location": f"/orders/{order.id}"}, replayed=not is_new)

    @together
    def _store(self, asked: Sequence[Asked]) -> Sequence[Claimed | KeyReused]:
        with self.db.autocommit() as connection:
            return store.claim_orders(connection, asked, self.config["RECOVERY_AFTER_S"])

    @together
    def _settle(self, orders: Sequence[OrderView]) -> Sequence[OrderView]:
        """Ask billing, which pays an order once; then record the outcomes, and the events that tell of them."""
        outcomes = self.billing.pay_all(payments=[payment(order).model_dump(mode="json") for order in orders])
        settled = [verdict(order, Outcome(outcome)) for order, outcome in zip(orders, outcomes, strict=True)]
        with self.db.autocommit() as connection:
            events = store.finish(connection, settled, self.config["OUTBOX_LEASE_S"])
        self.outbox.publish_soon(events)
        return settled

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Finish the orders that a crash or an outage left pending; any number of replicas may do so at once."""
        with self.db.get_session() as session:
            orders = store.claim_pending(session, self.config["RECOVERY_BATCH"], self.config["RECOVERY_AFTER_S"])
        self._settle.all(orders)
        with self.db.get_session() as session:
            metrics.PENDING.labels(self.name).set(store.count_pending(session))

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
