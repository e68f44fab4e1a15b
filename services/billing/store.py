"""All the SQL of billing. Each function works in the caller's transaction."""
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.billing.domain import Kind, change, entries
from services.billing.models import Account, Operation
from services.common.idempotency import claim
from services.common.pages import PageQuery, newest_first
from services.contracts import AccountNotFound, OperationMismatch, Outcome


def open_account(session: Session, user_id: UUID) -> Account:
    """Open the user's account with nothing in it, or find it open."""
    session.execute(insert(Account).values(user_id=user_id, balance=0).on_conflict_do_nothing())
    return get_account(session, user_id)


def get_account(session: Session, user_id: UUID) -> Account:
    account = session.get(Account, user_id)
    if account is None:
        raise AccountNotFound(str(user_id))
    return account


def claim_payment(session: Session, operation_id: UUID, user_id: UUID, amount: int) -> tuple[Operation, bool]:
    """Insert the payment under its operation id, or find the one that has it; OperationMismatch if it is another."""
    debit, credit = entries(Kind.PAYMENT, user_id)
    asked = {"kind": Kind.PAYMENT, "user_id": user_id, "amount": amount}
    operation = session.scalars(
        insert(Operation).values(id=operation_id, debit=debit, credit=credit, **asked)
        .on_conflict_do_nothing().returning(Operation)
    ).one_or_none()
    if operation is not None:
        return operation, True
    operation = session.get_one(Operation, operation_id)
    if any(getattr(operation, name) != value for name, value in asked.items()):
        raise OperationMismatch(f"operation {operation_id} was used before with other values")
    return operation, False


def claim_movement(session: Session, key: str | None, kind: Kind, user_id: UUID, amount: int) -> tuple[Operation, bool]:
    """Insert a deposit or a withdrawal under its Idempotency-Key, or find the one that has it."""
    debit, credit = entries(kind, user_id)
    operation, is_new = claim(session, Operation, key, {"kind": kind, "user_id": user_id, "amount": amount},
                              debit=debit, credit=credit)
    assert operation is not None  # no other unique column can have refused it: its id is new
    return operation, is_new


def settle(session: Session, operation: Operation) -> None:
    """Decide a claimed operation: move the money if the account has it, and record the outcome."""
    moved = change(Kind(operation.kind), operation.amount)
    balance = session.scalars(
        update(Account).where(Account.user_id == operation.user_id, Account.balance + moved >= 0)
        .values(balance=Account.balance + moved).returning(Account.balance)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if balance is not None:
        outcome = Outcome.ACCEPTED
    elif session.scalars(select(Account.user_id).where(Account.user_id == operation.user_id)).one_or_none():
        outcome = Outcome.INSUFFICIENT_FUNDS
    else:
        outcome = Outcome.ACCOUNT_NOT_FOUND
    session.scalars(
        update(Operation).where(Operation.id == operation.id)
        .values(outcome=outcome, balance=balance, created_at=func.clock_timestamp()).returning(Operation)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one()


def statement(session: Session, user_id: UUID, page: PageQuery) -> tuple[Sequence[Operation], str | None]:
    """The operations that moved the user's money, newest first."""
    accepted = select(Operation).where(Operation.user_id == user_id, Operation.outcome == Outcome.ACCEPTED)
    return newest_first(session, accepted, page, Operation.created_at, Operation.id)
