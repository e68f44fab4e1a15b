"""Billing in the style `http`: it serves PUTs under the id of the user or the order, which may come again."""

from collections.abc import Sequence
from uuid import UUID

from pydantic import BaseModel

from services.billing import models, service
from services.contracts import AccountOpened, Outcome, Payment, PaymentRequest, PaymentState
from services.kit.batching import batched
from services.kit.outbox.provider import Outbox
from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Reply, http
from services.kit.web.transport import HttpTransport
from services.notices import notice_of


class AccountState(BaseModel):
    """An account that is open."""

    user_id: UUID


class BillingService(service.AskedBilling):
    """Keeps the accounts. Each operation happens once, however often it is asked for."""

    #: Billing tells of nothing in this style; this delivers what the style `events` has left.
    outbox = Outbox(models.OutboxEvent, HttpTransport("notifications", notice_of), ignores=(AccountOpened,))

    @http(
        "PUT",
        "/internal/billing/accounts/<uuid:user_id>",
        needs=Rule.SERVICES,
        answers={200: AccountState},
        summary="Open an account",
    )
    def put_account(self, user_id: UUID) -> Reply:
        """Open the user's account, or find it open."""
        self._open_together.one(user_id)
        return Reply(200, AccountState(user_id=user_id))

    @batched()
    def _open_together(self, user_ids: Sequence[UUID]) -> Sequence[UUID]:
        return self._open_accounts(user_ids)

    @http(
        "PUT",
        "/internal/billing/payments/<uuid:order_id>",
        needs=Rule.SERVICES,
        body=PaymentRequest,
        answers={200: PaymentState},
        summary="Pay for an order",
    )
    def put_payment(self, order_id: UUID, body: PaymentRequest) -> Reply:
        """Take the price of an order, once; say what became of it. An account that is locked is waited for a while."""
        payment = Payment(operation_id=order_id, user_id=body.user_id, amount=body.amount)
        outcome = self._pay_together.one(payment)
        if outcome == Outcome.BUSY:
            with self.busy.one_at_a_time(body.user_id) as is_let_in:
                if is_let_in:
                    [outcome] = self._pay_all([payment], wait=True)
                    if outcome == Outcome.BUSY:
                        self.busy.add(body.user_id)
        return Reply(200, PaymentState(order_id=order_id, outcome=outcome))

    @batched()
    def _pay_together(self, payments: Sequence[Payment]) -> Sequence[str]:
        return self._pay_all(payments, wait=False)

    @http(
        "PUT",
        "/internal/billing/refusals/<uuid:order_id>",
        needs=Rule.SERVICES,
        body=PaymentRequest,
        answers={200: PaymentState},
        summary="Refuse to pay for an order",
    )
    def put_refusal(self, order_id: UUID, body: PaymentRequest) -> Reply:
        """Refuse the payment for good, because there is no such user; say what is stored from now on."""
        payment = Payment(operation_id=order_id, user_id=body.user_id, amount=body.amount)
        return Reply(200, PaymentState(order_id=order_id, outcome=self._refuse(payment)))
