"""Orders in the style `http`: billing, and then notifications, are asked by HTTP, and the client waits for both."""

from collections.abc import Sequence

from services.contracts import OrderPlaced, PaymentRequest, PaymentState, UserKnown
from services.kit.batching import batched
from services.kit.errors import CallFailed
from services.kit.outbox.provider import Outbox
from services.kit.recovery import one_by_one
from services.kit.web.client import HttpProxy
from services.kit.web.transport import HttpTransport
from services.notices import notice_of
from services.orders import models, service
from services.orders.domain import OrderView
from services.orders.service import NoAccount, read_outcome
from services.orders.store import Recorded


class OrdersService(service.AskingOrders):
    """Asks billing to pay for each order, and notifications to store its letter."""

    outbox = Outbox(models.OutboxEvent, HttpTransport("notifications", notice_of), ignores=(OrderPlaced,))
    billing = HttpProxy("billing")
    users = HttpProxy("users")

    def _settle(self, order: OrderView) -> OrderView:
        """Have billing pay for the order, record how it ended, and have its letter stored.

        A letter that is not stored now is owed: its event is in the outbox, whose relay asks again.
        """
        recorded = self._end_together.one(self._ask_billing(order))
        self.outbox.publish_now(recorded.events)
        return recorded.order

    def _ask_billing(self, order: OrderView) -> OrderView:
        """Return the order as billing ends it. Billing pays for an order once, so asking again is harmless."""
        try:
            return self._outcome_of("payments", order)
        except NoAccount:
            known = self.users.get(f"/internal/users/{order.user_id}", "get_known")
            if known.status != 200 or UserKnown.model_validate(known.body).is_known:
                raise  # the account is on its way
            return self._outcome_of("refusals", order)

    def _outcome_of(self, what: str, order: OrderView) -> OrderView:
        payment = PaymentRequest(user_id=order.user_id, amount=order.price)
        answer = self.billing.put(f"/internal/billing/{what}/{order.id}", payment, what)
        if answer.status != 200:
            raise CallFailed(f"billing answered {answer.status} to a payment")
        result = read_outcome(order, PaymentState.model_validate(answer.body).outcome)
        if isinstance(result, Exception):
            raise result
        return result

    @batched()
    def _end_together(self, orders: Sequence[OrderView]) -> Sequence[Recorded]:
        return self._end(orders)

    def _settle_due(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        return one_by_one(orders, self._settle)
