"""Orders in the style `events`: orders tells what somebody wants, and billing tells what became of the payment."""

from collections.abc import Sequence

from services.contracts import OrderPlaced, PaymentAccepted, PaymentRefused
from services.kit.amqp.events import event_handler
from services.kit.amqp.transport import AmqpTransport
from services.kit.batching import batched
from services.kit.errors import KeyReused
from services.kit.inbox.provider import Inbox
from services.kit.outbox.provider import Outbox
from services.kit.recovery import NotYet, events_of
from services.orders import models, service, store
from services.orders.domain import OrderReason, OrderStatus, OrderView
from services.orders.store import EndedOrder, OrderRequest, StoredOrder


class OrdersService(service.Orders):
    """Publishes that orders are placed, and hears what became of their payments. Nobody is asked, and nobody waits."""

    outbox = Outbox(models.OutboxEvent, AmqpTransport())
    inbox = Inbox(models.InboxEvent)

    @batched()
    def _store(self, requests: Sequence[OrderRequest]) -> Sequence[StoredOrder | KeyReused]:
        """Store the orders, each with the event that it is placed, in one statement."""
        events = {one.id: placed(one) for one in requests}
        with self.db.autocommit() as connection:
            stored, written = store.place_orders(
                connection, requests, events, self.config["RECOVERY_AFTER_S"], self.outbox.lease_s
            )
        self.outbox.publish_soon(written)
        return stored

    def _promises_at_once(self, wait_s: float | None) -> bool:
        return not wait_s

    def _settle(self, order: OrderView) -> OrderView:
        raise NotYet("billing is going to hear of it")

    @event_handler(PaymentAccepted)
    def on_payment_accepted(self, events: list[PaymentAccepted]) -> list[bool]:
        """Record that the orders are paid."""
        return self._end([EndedOrder(event.order_id, OrderStatus.PAID, None) for event in events])

    @event_handler(PaymentRefused)
    def on_payment_refused(self, events: list[PaymentRefused]) -> list[bool]:
        """Record that the orders are rejected."""
        return self._end(
            [EndedOrder(event.order_id, OrderStatus.REJECTED, OrderReason(event.reason)) for event in events]
        )

    def _end(self, orders: Sequence[EndedOrder]) -> list[bool]:
        """Give the orders their final status, and wake those who wait; return for each whether this was new."""
        with self.db.autocommit() as connection:
            new = store.end(connection, orders, {}, self.outbox.lease_s)
            now = store.find(connection, [order.id for order in orders])
        self.ends.tell([order for order in now.values() if order.status != OrderStatus.PENDING])
        if any(order.status == OrderStatus.PENDING for order in now.values()):
            raise Held("somebody holds an order; it is tried again")
        return [order.id in new for order in orders]

    def _settle_due(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        """Tell of the orders again; billing tells again what it has decided."""
        events, troubles = events_of(orders, placed)
        with self.db.autocommit() as connection:
            written = store.place_again(connection, events, self.outbox.lease_s)
        self.outbox.publish_soon(written)
        return [troubles.get(order.id, NotYet("billing is going to hear of it")) for order in orders]


def placed(order: OrderRequest | OrderView) -> OrderPlaced:
    return OrderPlaced(order_id=order.id, user_id=order.user_id, price=order.price)


class Held(Exception):
    """Somebody else holds the row of an order: its event is tried again, alone and a little later."""
