"""What the three styles of billing have in common: what people do with their accounts.

How billing hears of users and orders is in `broker.py`, `http.py` and `events.py`.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from services.billing import models, store
from services.billing.domain import AccountView, Money, OperationKind, OperationView
from services.billing.store import Moved, Movement, OperationsQuery
from services.contracts import Outcome, Payment
from services.kit.busy import Busy
from services.kit.db.database import Database
from services.kit.errors import KeyReused
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page
from services.kit.web.problems import RETRY_AFTER, Problem
from services.problems import not_found

ACCOUNT = "/billing/accounts/<uuid:user_id>"
no_account = partial(not_found, "account")


class Billing:
    """Keeps the accounts. Each operation happens once, however often it is asked for."""

    name = "billing"
    db = Database(models.Base)
    busy = Busy()

    @http(
        "GET",
        ACCOUNT,
        needs=Needs("billing:read", Owner.PATH, no_account),
        answers={200: AccountView, 404: "account-not-found"},
        summary="Show an account",
    )
    def show_account(self, user_id: UUID) -> Reply:
        """Show what the user has."""
        with self.db.get_session() as session:
            return Reply(200, AccountView.model_validate(store.get_account(session, user_id)))

    @http(
        "POST",
        f"{ACCOUNT}/deposit",
        needs=Needs("billing:deposit", Owner.PATH, no_account),
        body=Money,
        answers={200: OperationView, 404: "account-not-found", 503: "account-busy"},
        summary="Deposit money",
    )
    def deposit(self, user_id: UUID, key: str | None, body: Money) -> Reply:
        """Add money to the account, once for each Idempotency-Key."""
        return self._move(OperationKind.DEPOSIT, user_id, key, body)

    @http(
        "POST",
        f"{ACCOUNT}/withdraw",
        needs=Needs("billing:withdraw", Owner.PATH, no_account),
        body=Money,
        answers={200: OperationView, 402: "insufficient-funds", 404: "account-not-found", 503: "account-busy"},
        summary="Withdraw money",
    )
    def withdraw(self, user_id: UUID, key: str | None, body: Money) -> Reply:
        """Take money from the account, once for each Idempotency-Key; 402, and nothing is moved, if it holds less."""
        return self._move(OperationKind.WITHDRAWAL, user_id, key, body)

    def _move(self, kind: OperationKind, user_id: UUID, key: str | None, money: Money) -> Reply:
        """Carry out a deposit or a withdrawal, once for each key; a refusal is kept under the key as well."""
        movement = Movement.of(kind, user_id, money.amount, key=key)
        with self.busy.one_at_a_time(user_id) as is_let_in:
            moved = self._move_alone(movement) if is_let_in else Moved(Outcome.BUSY, movement.id)
        if isinstance(moved, KeyReused):
            raise moved
        match moved.outcome:
            case Outcome.BUSY:
                raise account_busy()
            case Outcome.ACCOUNT_NOT_FOUND | Outcome.REFUSED:
                raise not_found("account", replayed=not moved.is_new)
            case Outcome.INSUFFICIENT_FUNDS:
                raise insufficient_funds(replayed=not moved.is_new)
        return Reply(200, receipt(moved, movement), replayed=not moved.is_new)

    def _move_alone(self, movement: Movement) -> Moved | KeyReused:
        """Carry out one movement; an account that somebody else holds is waited for, and remembered if in vain."""
        with self.db.autocommit() as connection:
            [moved] = store.move(connection, [movement], wait=True)
            outcome = store.outcome_of(moved)
            if outcome == Outcome.ACCOUNT_NOT_FOUND and movement.idempotency_key is not None:
                moved = store.refuse(connection, movement)  # a refusal is stored only under a key
        if outcome == Outcome.BUSY:
            self.busy.add(movement.user_id)
        return moved

    @http(
        "GET",
        f"{ACCOUNT}/operations",
        needs=Needs("billing:read", Owner.PATH, no_account),
        query=OperationsQuery,
        answers={200: Page[OperationView], 404: "account-not-found"},
        summary="List the operations of an account, newest first",
    )
    def list_operations(self, user_id: UUID, query: OperationsQuery) -> Reply:
        """List what was moved, with the balance right after each operation. Payments have the ids of their orders."""
        with self.db.get_session() as session:
            store.get_account(session, user_id)
            operations, next_ = store.statement(session, user_id, query)
        lines = [OperationView.model_validate(operation) for operation in operations]
        return Reply(200, Page[OperationView](items=lines, next=next_))

    @http(
        "GET",
        f"{ACCOUNT}/operations/<uuid:operation_id>",
        needs=Needs("billing:read", Owner.PATH, partial(not_found, "operation")),
        answers={200: OperationView, 404: "operation-not-found"},
        summary="Show an operation",
        ends=True,
    )
    def get_operation(self, user_id: UUID, operation_id: UUID) -> Reply:
        """Show what moved money of this account. It never changes; a payment has the id of its order."""
        with self.db.get_session() as session:
            operation = store.get_operation(session, user_id, operation_id)
        if operation is None:
            raise not_found("operation")
        return Reply(200, OperationView.model_validate(operation), ended=True)


class AskedBilling(Billing):
    """What the styles have in common in which billing is asked to pay."""

    def _pay_all(self, payments: Sequence[Payment], wait: bool) -> list[str]:
        """Carry out payments, each once for its operation id; return their Outcomes, in the same order.

        Each statement of `store.move` is a transaction by itself: a death between two of them leaves some payments
        carried out, whose outcomes are found when they are asked for again.
        """
        with self.db.autocommit() as connection:
            outcomes = store.move(connection, [Movement.of_payment(payment) for payment in payments], wait)
        return [str(store.outcome_of(one)) for one in outcomes]

    def _refuse(self, payment: Payment) -> str:
        """Refuse a payment for good, because there is no such user; return the Outcome that is stored from now on."""
        with self.db.autocommit() as connection:
            return str(store.outcome_of(store.refuse(connection, Movement.of_payment(payment))))

    def _open_accounts(self, user_ids: Sequence[UUID]) -> Sequence[UUID]:
        with self.db.autocommit() as connection:
            return store.open_accounts(connection, user_ids)


def receipt(moved: Moved, movement: Movement) -> OperationView:
    assert moved.balance is not None and moved.created_at is not None  # what was accepted has both
    return OperationView(
        operation_id=moved.operation_id,
        user_id=movement.user_id,
        amount=movement.amount,
        balance=moved.balance,
        kind=movement.kind,
        created_at=moved.created_at,
    )


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
