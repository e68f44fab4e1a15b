"""Billing in the style `broker`: it serves RPCs."""

from uuid import UUID

from services.billing import models, service, store
from services.contracts import AccountOpened, AccountState, Amount, OperationMismatch, Outcome, Payment
from services.kit.amqp.rpc import rpc
from services.kit.amqp.transport import AmqpTransport
from services.kit.outbox.provider import Outbox


class BillingService(service.AskedBilling):
    """Keeps the accounts. Each operation happens once, however often it is asked for."""

    #: Billing tells of nothing in this style; this publishes what the style `events` has left.
    outbox = Outbox(models.OutboxEvent, AmqpTransport(), ignores=(AccountOpened,))

    @rpc
    def open_account(self, user_id: UUID) -> AccountState:
        """Open the user's account, once, and return its state."""
        self.open_accounts(user_ids=[user_id])
        return self.get_account(user_id=user_id)

    @rpc
    def open_accounts(self, user_ids: list[UUID]) -> list[str]:
        """Open the accounts of these users, each once, in one statement; return the ids of those that are open now."""
        return [str(user_id) for user_id in self._open_accounts(user_ids)]

    @rpc
    def pay(self, operation_id: UUID, user_id: UUID, amount: Amount) -> str:
        """Take `amount` for an order, once for each `operation_id`; return the Outcome, as `pay_all` does.

        Raises OperationMismatch for an id that was used with other values.
        """
        payment = Payment(operation_id=operation_id, user_id=user_id, amount=amount)
        [outcome] = self.pay_all(payments=[payment], wait=True)
        if outcome == Outcome.MISMATCH:
            raise OperationMismatch(f"operation {operation_id} was used before with other values")
        return outcome

    @rpc
    def pay_all(self, payments: list[Payment], wait: bool = False) -> list[str]:
        """Carry out payments, each once for its operation id; return their Outcomes, in the same order.

        An account that somebody else holds is waited for, LOCK_TIMEOUT_S at the most, if `wait` says so; otherwise its
        payments are left out, and hold up nobody. Each statement of `store.move` is a transaction by itself: a death
        between two of them leaves some payments carried out, whose outcomes are found when they are asked for again.
        """
        return self._pay_all(payments, wait)

    @rpc
    def refuse(self, operation_id: UUID, user_id: UUID, amount: Amount) -> str:
        """Refuse a payment for good, because there is no such user; return the Outcome that is stored from now on.

        It is another one if the payment was decided before. A request to pay that the broker delivers late finds it.
        """
        return self._refuse(Payment(operation_id=operation_id, user_id=user_id, amount=amount))

    @rpc
    def get_account(self, user_id: UUID) -> AccountState:
        """Return the state of the user's account. Raises AccountNotFound."""
        with self.db.get_session() as session:
            account = store.get_account(session, user_id)
            return {"user_id": str(account.user_id), "balance": account.balance}
