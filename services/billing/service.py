"""The entrypoints of billing."""

from uuid import UUID

from services.billing import models, store
from services.billing.domain import AccountView, Kind, Money, OperationView, ReceiptView
from services.contracts import AccountNotFound, AccountState, Amount, OperationMismatch, Outcome, Payment
from services.kit.amqp.rpc import rpc
from services.kit.busy import Busy
from services.kit.db.database import Database
from services.kit.errors import TryAgain
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page, PageQuery
from services.kit.web.problems import RETRY_AFTER, Problem, not_found

ACCOUNT = "/billing/accounts/<uuid:user_id>"


class BillingService:
    """Keeps the accounts. Each operation happens once, however often it is asked for."""

    name = "billing"
    db = Database(models.Base)
    busy = Busy()

    @rpc
    def open_account(self, user_id: UUID) -> AccountState:
        """Open the user's account, once, and give its state."""
        with self.db.get_session() as session:
            return account_state(store.open_account(session, user_id))

    @rpc
    def open_accounts(self, user_ids: list[UUID]) -> list[str]:
        """Open the accounts of these users, each once, in one statement; give the ids of those that are open now."""
        with self.db.autocommit() as connection:
            return [str(user_id) for user_id in store.open_accounts(connection, user_ids)]

    @rpc
    def pay(self, operation_id: UUID, user_id: UUID, amount: Amount) -> str:
        """Take `amount` for an order, once for each `operation_id`; give the Outcome, as `pay_all` does.

        Raises OperationMismatch for an id that was used with other values.
        """
        payment = Payment(operation_id=operation_id, user_id=user_id, amount=amount)
        [outcome] = self.pay_all(payments=[payment], wait=True)
        if outcome == Outcome.MISMATCH:
            raise OperationMismatch(f"operation {operation_id} was used before with other values")
        return outcome

    @rpc
    def pay_all(self, payments: list[Payment], wait: bool = False) -> list[str]:
        """Carry out payments, each once for its operation id; give their Outcomes, in the same order.

        An account that somebody else holds is waited for, LOCK_TIMEOUT_S at the most, if `wait` says so; otherwise its
        payments are left out, and hold up nobody. Each statement of `store.pay` is a transaction by itself: a death
        between two of them leaves some payments carried out, whose outcomes are found when they are asked for again.
        """
        with self.db.autocommit() as connection:
            outcomes = store.pay(connection, payments, wait)
        return [str(outcome) for outcome in outcomes]

    @rpc
    def refuse(self, operation_id: UUID, user_id: UUID, amount: Amount) -> str:
        """Refuse a payment for good, because there is no such user; give the Outcome that is stored from now on.

        It is another one if the payment was decided before. A request to pay that the broker delivers late finds it.
        """
        payment = Payment(operation_id=operation_id, user_id=user_id, amount=amount)
        with self.db.autocommit() as connection:
            return str(store.refuse(connection, payment))

    @rpc
    def get_account(self, user_id: UUID) -> AccountState:
        """Give the state of the user's account. Raises AccountNotFound."""
        with self.db.get_session() as session:
            return account_state(store.get_account(session, user_id))

    @http("GET", ACCOUNT, answers={200: AccountView, 404: None}, summary="Show an account")
    def show_account(self, user_id: UUID) -> Reply:
        with self.db.get_session() as session:
            return Reply(200, AccountView.model_validate(store.get_account(session, user_id)))

    @http("POST", f"{ACCOUNT}/deposit", body=Money, answers={200: ReceiptView, 404: None}, summary="Deposit money")
    def deposit(self, user_id: UUID, key: str | None, body: Money) -> Reply:
        return self._move(Kind.DEPOSIT, user_id, key, body)

    @http(
        "POST",
        f"{ACCOUNT}/withdraw",
        body=Money,
        answers={200: ReceiptView, 402: None, 404: None},
        summary="Withdraw money",
    )
    def withdraw(self, user_id: UUID, key: str | None, body: Money) -> Reply:
        return self._move(Kind.WITHDRAWAL, user_id, key, body)

    def _move(self, kind: Kind, user_id: UUID, key: str | None, money: Money) -> Reply:
        """Carry out a deposit or a withdrawal, once for each key; a refusal is kept under the key as well."""
        if user_id in self.busy:
            raise account_busy()
        try:
            with self.db.get_session() as session:
                operation, is_new = store.claim_movement(session, key, kind, user_id, money.amount)
                if is_new:
                    store.settle(session, operation)
                if operation.outcome == Outcome.ACCOUNT_NOT_FOUND and key is None:
                    raise AccountNotFound(str(user_id))  # and nothing is stored
        except TryAgain:  # whoever waits for a locked account holds a worker: those who come next need not
            self.busy.add(user_id)
            raise account_busy() from None
        if operation.outcome == Outcome.ACCOUNT_NOT_FOUND:
            raise not_found("account of this user", replayed=not is_new)
        if operation.outcome == Outcome.INSUFFICIENT_FUNDS:
            raise insufficient_funds(replayed=not is_new)
        return Reply(200, ReceiptView.model_validate(operation), replayed=not is_new)

    @http(
        "GET",
        f"{ACCOUNT}/operations",
        query=PageQuery,
        answers={200: Page[OperationView], 404: None},
        summary="List the operations of an account, newest first",
    )
    def list_operations(self, user_id: UUID, query: PageQuery) -> Reply:
        with self.db.get_session() as session:
            store.get_account(session, user_id)
            operations, next_ = store.statement(session, user_id, query)
        lines = [OperationView.model_validate(operation) for operation in operations]
        return Reply(200, Page[OperationView](items=lines, next=next_))


def account_state(account: models.Account) -> AccountState:
    return {"user_id": str(account.user_id), "balance": account.balance}


def insufficient_funds(replayed: bool) -> Problem:
    return Problem(
        402, "insufficient-funds", "amount: the account holds less than this; nothing was moved.", replayed=replayed
    )


def account_busy() -> Problem:
    """The problem for an account that somebody else holds, which is known to be as it was."""
    return Problem(
        503,
        "account-busy",
        "The account is busy, and nothing was moved. Send it again, with the same Idempotency-Key if there is one.",
        headers=RETRY_AFTER,
    )
