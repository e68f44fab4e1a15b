"""Billing in the style `events`: it hears of users and of orders, and tells what it has done."""

from collections.abc import Sequence
from uuid import UUID

import eventlet
from nameko.dependency_providers import Config

from services.billing import models, service, store
from services.billing.domain import OperationKind, event_of
from services.billing.store import Moved, Movement, WaitingPayment
from services.contracts import AccountOpened, OrderPlaced, Outcome, PaymentAccepted, PaymentRefused, UserRegistered
from services.kit.amqp.events import event_handler
from services.kit.amqp.transport import AmqpTransport
from services.kit.batching import batched
from services.kit.errors import KeyReused
from services.kit.inbox.provider import Inbox
from services.kit.outbox.provider import Outbox
from services.kit.timers import every
from services.kit.tracing import going_on, traceparent

#: The pauses before each try to pay from an account that is locked, mostly by a deposit that ends in a moment.
BUSY_PAUSES_S = (0, 0.005, 0.02, 0.05)
UNDECIDED = (Outcome.BUSY, Outcome.ACCOUNT_NOT_FOUND)


class BillingService(service.Billing):
    """Keeps the accounts. Each operation happens once, and is told as often as somebody seems not to have heard."""

    config = Config()
    outbox = Outbox(models.OutboxEvent, AmqpTransport())
    inbox = Inbox(models.InboxEvent)

    @event_handler(UserRegistered)
    def on_user_registered(self, events: list[UserRegistered]) -> list[bool]:
        """Open the accounts of the users, and tell that they are open; then pay for what waits for them."""
        opened = {event.user_id: AccountOpened(user_id=event.user_id) for event in events}
        with self.db.autocommit() as connection:
            new, written = store.open_and_tell(connection, opened, self.outbox.lease_s)
            waiting = store.waiting_of(connection, list(opened))
        self.outbox.publish_soon(written)
        self._pay_waiting(waiting)
        return [event.user_id in new for event in events]

    @event_handler(OrderPlaced)
    def on_order_placed(self, events: list[OrderPlaced]) -> list[bool]:
        """Take the prices of the orders, and tell what became of it."""
        results = self._pay([payment_of(event) for event in events])
        return [not isinstance(result, KeyReused) and result.is_new for result in results]

    def _pay(self, payments: Sequence[WaitingPayment]) -> list[Moved | KeyReused]:
        """Carry out payments, each once for its order, and tell the outcomes; let those wait that cannot be decided.

        Who dies in between is asked again, as nothing is acknowledged yet, and tells again.
        """
        results: dict[UUID, Moved | KeyReused] = {}
        undecided = [Movement.of(OperationKind.PAYMENT, one.user_id, one.amount, one.order_id) for one in payments]
        for pause_s in BUSY_PAUSES_S:
            eventlet.sleep(pause_s)
            with self.db.autocommit() as connection:
                moved, written = store.move_and_tell(connection, undecided, event_of_movement, self.outbox.lease_s)
            self.outbox.publish_soon(written)
            results |= {movement.id: one for movement, one in zip(undecided, moved, strict=True)}
            undecided = [one for one in undecided if store.outcome_of(results[one.id]) == Outcome.BUSY]
            if not undecided:
                break
        if waiting := [one for one in payments if store.outcome_of(results[one.order_id]) in UNDECIDED]:
            with self.db.autocommit() as connection:
                store.let_wait(connection, waiting)
        return [results[one.order_id] for one in payments]

    @every("INBOX_INTERVAL_S")
    def pay_waiting(self) -> None:
        """Try payments that wait for their account again; refuse those that have waited for ACCOUNT_WAIT_S."""
        with self.db.autocommit() as connection:
            due, overdue = store.waiting_due(
                connection,
                self.config["RECOVERY_BATCH"],
                self.config["INBOX_INTERVAL_S"],
                self.config["ACCOUNT_WAIT_S"],
            )
        missing = self._pay_waiting(due)
        for payment in missing:
            if payment.order_id in overdue:
                self._refuse(payment)

    def _pay_waiting(self, payments: Sequence[WaitingPayment]) -> list[WaitingPayment]:
        """Try payments again, and forget those that are decided; return those whose account is still missing."""
        if not payments:
            return []
        results = dict(zip(payments, self._pay_each.many(payments), strict=True))
        outcomes = {
            payment: store.outcome_of(result)
            for payment, result in results.items()
            if not isinstance(result, Exception) or isinstance(result, KeyReused)
        }
        with self.db.autocommit() as connection:
            store.stop_waiting(connection, [one.order_id for one in outcomes if outcomes[one] not in UNDECIDED])
        return [payment for payment, outcome in outcomes.items() if outcome == Outcome.ACCOUNT_NOT_FOUND]

    @batched()
    def _pay_each(self, payments: Sequence[WaitingPayment]) -> Sequence[Moved | KeyReused]:
        return self._pay(payments)

    def _refuse(self, payment: WaitingPayment) -> None:
        """Refuse a payment for good: there has been no account for so long that there will never be one."""
        movement = Movement.of(OperationKind.PAYMENT, payment.user_id, payment.amount, payment.order_id)
        with self.db.autocommit() as connection, going_on(payment.order_id, payment.traceparent):
            written = store.refuse_and_tell(connection, movement, event_of_movement, self.outbox.lease_s)
            store.stop_waiting(connection, [payment.order_id])
        self.outbox.publish_soon(written)


def payment_of(event: OrderPlaced) -> WaitingPayment:
    return WaitingPayment(event.order_id, event.user_id, event.price, traceparent(event.order_id))


def event_of_movement(movement: Movement, outcome: Outcome) -> PaymentAccepted | PaymentRefused:
    return event_of(movement.id, movement.user_id, movement.amount, outcome)
