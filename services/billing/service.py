"""The entrypoints of billing."""
from uuid import UUID

from services.billing import models, store
from services.billing.domain import AccountView, Kind, Money, OperationView, ReceiptView
from services.common.database import Database
from services.common.http import Reply, http
from services.common.pages import Page, PageQuery
from services.common.problems import Problem
from services.common.rpc import rpc
from services.contracts import AccountNotFound, AccountState, Amount, Outcome, Payment

ACCOUNT = "/billing/accounts/<uuid:user_id>"


class BillingService:
    """Keeps the accounts. Each operation happens once, however often it is asked for."""

    name = "billing"
    db = Database(models.Base)

    @rpc
    def open_account(self, user_id: UUID) -> AccountState:
        """Open the user's account, once, and give its state."""
        with self.db.get_session() as session:
            return account_state(store.open_account(session, user_id))

    @rpc
    def pay(self, operation_id: UUID, user_id: UUID, amount: Amount) -> str:
        """Take `amount` for an order, once for each `operation_id`; give the Outcome, the same one ever after.

        Raises OperationMismatch for an id that was used with other values.
        """
        [outcome] = self.pay_all([Payment(operation_id=operation_id, user_id=user_id, amount=amount)])
        return outcome

    @rpc
    def pay_all(self, payments: list[Payment]) -> list[str]:
        """Carry out payments as `pay` does, in one transaction; give their Outcomes, in the same order."""
        with self.db.autocommit() as connection:
            outcomes = store.pay(connection, payments)
        return [str(outcomes[payment.operation_id]) for payment in payments]

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

    @http("POST", f"{ACCOUNT}/withdraw", body=Money, answers={200: ReceiptView, 402: None, 404: None},
          summary="Withdraw money")
    def withdraw(self, user_id: UUID, key: str | None, body: Money) -> Reply:
        return self._move(Kind.WITHDRAWAL, user_id, key, body)

    def _move(self, kind: Kind, user_id: UUID, key: str | None, money: Money) -> Reply:
        """Carry out a deposit or a withdrawal, once for each key."""
        with self.db.get_session() as session:
            operation, is_new = store.claim_movement(session, key, kind, user_id, money.amount)
            if is_new:
                store.settle(session, operation)
            if operation.outcome == Outcome.ACCOUNT_NOT_FOUND:
                raise AccountNotFound(str(user_id))  # and nothing is stored
        if operation.outcome == Outcome.INSUFFICIENT_FUNDS:
            raise insufficient_funds(replayed=not is_new)
        return Reply(200, ReceiptView.model_validate(operation), replayed=not is_new)

    @http("GET", f"{ACCOUNT}/operations", query=PageQuery, answers={200: Page[OperationView], 404: None},
          summary="List the operations of an account, newest first")
    def list_operations(self, user_id: UUID, query: PageQuery) -> Reply:
        with self.db.get_session() as session:
            store.get_account(session, user_id)
            operations, next_ = store.statement(session, user_id, query)
        lines = [OperationView.model_validate(operation) for operation in operations]
        return Reply(200, Page[OperationView](items=lines, next=next_))


def account_state(account: models.Account) -> AccountState:
    return {"user_id": str(account.user_id), "balance": account.balance}


def insufficient_funds(replayed: bool) -> Problem:
    return Problem(402, "insufficient-funds", "amount: the account holds less than this; nothing was moved.",
                   replayed=replayed)
