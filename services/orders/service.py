"""The entrypoints of orders. The flow of an order is `create_order` and `_settle`."""
from uuid import UUID

from nameko.dependency_providers import Config

from services.common import metrics
from services.common.database import Database
from services.common.http import Reply, http
from services.common.outbox import Outbox
from services.common.pages import Page, UserPageQuery
from services.common.problems import OUTCOME_UNKNOWN, not_found
from services.common.rpc import RpcProxy
from services.common.timers import every
from services.contracts import Outcome
from services.orders import models, store
from services.orders.domain import NewOrder, OrderView, Status, announcement, verdict


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
        with self.db.get_session() as session:
            order, is_new = store.claim_order(session, key, body, self.config["RECOVERY_AFTER_S"])
        try:
            order = self._settle(order)
        except OUTCOME_UNKNOWN:
            pass  # it stays pending, and `recover` asks billing again
        if order.reason == Outcome.ACCOUNT_NOT_FOUND:
            raise not_found("account of this user", replayed=not is_new)
        return Reply(202 if order.status == Status.PENDING else 201, OrderView.model_validate(order),
                     {"Location": f"/orders/{order.id}"}, replayed=not is_new)

    def _settle(self, order: models.Order) -> models.Order:
        """Ask billing, which pays an order once; then record the outcome together with the event that tells of it."""
        if order.status != Status.PENDING:
            return order
        outcome = self.billing.pay(operation_id=str(order.id), user_id=str(order.user_id), amount=order.price)
        with self.db.get_session() as session:
            finished = store.finish(session, order.id, *verdict(Outcome(outcome)))
            if finished and (event := announcement(OrderView.model_validate(finished))):
                self.outbox.add(session, event)
            return finished or store.existing(session, order.id)

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Finish the orders that a crash or an outage left pending; any number of replicas may do so at once."""
        with self.db.get_session() as session:
            orders = store.claim_pending(session, self.config["RECOVERY_BATCH"], self.config["RECOVERY_AFTER_S"])
        for order in orders:
            self._settle(order)
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
