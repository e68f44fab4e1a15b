"""All the SQL of billing. Each function works in the caller's transaction."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.billing.domain import Kind, change, entries
from services.billing.models import Account, Operation
from services.contracts import AccountNotFound, Outcome, Payment
from services.kit.db.idempotency import claim
from services.kit.db.statements import PreparedStatement
from services.kit.errors import TryAgain
from services.kit.web.pages import PageQuery, newest_first


def open_account(session: Session, user_id: UUID) -> Account:
    """Open the user's account with nothing in it, or find it open."""
    session.execute(insert(Account).values(user_id=user_id, balance=0).on_conflict_do_nothing())
    return get_account(session, user_id)


def get_account(session: Session, user_id: UUID) -> Account:
    account = session.get(Account, user_id)
    if account is None:
        raise AccountNotFound(str(user_id))
    return account


#: Decide, claim and carry out payments in one statement: the one that is not new makes it fail as a whole.
#: Payments of one account are decided in their order, up to the first that is refused; those after it are left
#: for another time, as it depends on them who of them can still be paid. Nothing is decided, and nothing stored, for an
#: account that is not there, or that could not be locked.
PAY_SQL = """
    with asked as (
        select *, sum(amount) over (partition by user_id order by number) as total
        from unnest($1, $2, $3, $4, $5) with ordinality as one (id, user_id, amount, debit, credit, number)
    ), locked as (
        select user_id, balance from accounts where user_id = any($2)
        -- in one order everywhere, so that no two transactions wait for each other
        order by user_id for update{waiting}
    ), decided as (
        select id, user_id, amount, debit, credit, number,
               case when balance >= total then 'accepted' else 'insufficient_funds' end as outcome,
               case when balance >= total then balance - total end as balance_after
        from asked join locked using (user_id)
        where balance >= total - amount
    ), paid as (
        insert into operations (id, kind, user_id, amount, debit, credit, outcome, balance, created_at)
        select id, 'payment', user_id, amount, debit, credit, outcome, balance_after,
               clock_timestamp() + number * interval '1 microsecond'
        from decided order by number
        returning id, user_id, amount, outcome
    ), taken as (
        update accounts set balance = accounts.balance - sums.amount
        from (select user_id, sum(amount) as amount from paid where outcome = 'accepted' group by user_id) as sums
        where accounts.user_id = sums.user_id
    )
    select id, outcome from paid
    union all
    select id, case when exists (select from accounts where accounts.user_id = asked.user_id)
                    then 'busy' else 'account_not_found' end
    from asked where user_id not in (select user_id from locked)"""
PAY_TYPES = ["uuid[]", "uuid[]", "bigint[]", "text[]", "text[]"]
PAY = PreparedStatement("pay", PAY_TYPES, PAY_SQL.format(waiting=" skip locked"))
PAY_WAITING = PreparedStatement("pay_waiting", PAY_TYPES, PAY_SQL.format(waiting=""))

REFUSE = PreparedStatement(
    "refuse_payment",
    ["uuid", "uuid", "bigint", "text", "text"],
    """
    insert into operations (id, kind, user_id, amount, debit, credit, outcome)
    values ($1, 'payment', $2, $3, $4, $5, 'account_not_found') on conflict do nothing""",
)

OPEN = PreparedStatement(
    "open_accounts",
    ["uuid[]"],
    """
    insert into accounts (user_id, balance)
    select distinct user_id, 0 from unnest($1) as one (user_id) order by user_id on conflict do nothing""",
)


def open_accounts(connection: Connection, user_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Open the accounts of these users with nothing in them, or find them open."""
    OPEN.run(connection, [str(user_id) for user_id in user_ids])
    return user_ids


def pay(connection: Connection, payments: Sequence[Payment], wait: bool) -> list[Outcome]:
    """Carry out payments, each once for its operation id, and give their outcomes, in the same order."""
    asked: dict[UUID, Payment] = {}
    for payment in payments:
        asked.setdefault(payment.operation_id, payment)
    outcomes: dict[UUID, Outcome] = {}
    while rest := [payment for payment in asked.values() if payment.operation_id not in outcomes]:
        try:
            outcomes |= carry_out(connection, rest, wait)
        except IntegrityError:
            if not (done_before := known(connection, rest)):
                raise
            outcomes |= done_before
        except TryAgain:  # PAY has not waited for the accounts, but for an operation that another one is carrying out
            outcomes |= {payment.operation_id: Outcome.BUSY for payment in rest}
    return [
        outcomes[payment.operation_id] if payment == asked[payment.operation_id] else Outcome.MISMATCH
        for payment in payments
    ]


def carry_out(connection: Connection, payments: Sequence[Payment], wait: bool) -> dict[UUID, Outcome]:
    """Run PAY; IntegrityError, and nothing is done, if some operation id is not new."""
    ledger = [entries(Kind.PAYMENT, payment.user_id) for payment in payments]
    paid = (PAY_WAITING if wait else PAY).run(
        connection,
        [str(payment.operation_id) for payment in payments],
        [str(payment.user_id) for payment in payments],
        [payment.amount for payment in payments],
        [debit for debit, _ in ledger],
        [credit for _, credit in ledger],
    )
    return {row.id: Outcome(row.outcome) for row in paid}


def refuse(connection: Connection, payment: Payment) -> Outcome:
    """Store that a payment was refused for want of an account, unless it was decided before; give what is stored."""
    REFUSE.run(
        connection,
        str(payment.operation_id),
        str(payment.user_id),
        payment.amount,
        *entries(Kind.PAYMENT, payment.user_id),
    )
    return known(connection, [payment])[payment.operation_id]


def known(connection: Connection, payments: Iterable[Payment]) -> dict[UUID, Outcome]:
    """The outcomes of those payments that were decided before; MISMATCH for an id that was used for something else."""
    asked = {payment.operation_id: payment for payment in payments}
    return {
        one.id: answer_of(one, asked[one.id])
        for one in connection.execute(select(Operation.__table__).where(Operation.id.in_(asked)))
    }


def answer_of(operation: Row[Any], payment: Payment) -> Outcome:
    """What somebody gets who asks for a payment under the id of `operation`."""
    if (operation.kind, operation.user_id, operation.amount) != (Kind.PAYMENT, payment.user_id, payment.amount):
        return Outcome.MISMATCH
    return Outcome.REFUSED if operation.outcome == Outcome.ACCOUNT_NOT_FOUND else Outcome(operation.outcome)


def claim_movement(session: Session, key: str | None, kind: Kind, user_id: UUID, amount: int) -> tuple[Operation, bool]:
    """Insert a deposit or a withdrawal under its Idempotency-Key, or find the one that has it."""
    debit, credit = entries(kind, user_id)
    operation, is_new = claim(
        session, Operation, key, {"kind": kind, "user_id": user_id, "amount": amount}, debit=debit, credit=credit
    )
    assert operation is not None  # no other unique column can have refused it: its id is new
    return operation, is_new


def settle(session: Session, operation: Operation) -> None:
    """Decide a claimed operation: move the money if the account has it, and record the outcome."""
    moved = change(Kind(operation.kind), operation.amount)
    balance = session.scalars(
        update(Account)
        .where(Account.user_id == operation.user_id, Account.balance + moved >= 0)
        .values(balance=Account.balance + moved)
        .returning(Account.balance)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if balance is not None:
        outcome = Outcome.ACCEPTED
    elif session.scalars(select(Account.user_id).where(Account.user_id == operation.user_id)).one_or_none():
        outcome = Outcome.INSUFFICIENT_FUNDS
    else:
        outcome = Outcome.ACCOUNT_NOT_FOUND
    session.scalars(
        update(Operation)
        .where(Operation.id == operation.id)
        .values(outcome=outcome, balance=balance, created_at=func.clock_timestamp())
        .returning(Operation)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one()


def statement(session: Session, user_id: UUID, page: PageQuery) -> tuple[Sequence[Operation], str | None]:
    """The operations that moved the user's money, newest first."""
    accepted = select(Operation).where(Operation.user_id == user_id, Operation.outcome == Outcome.ACCEPTED)
    return newest_first(session, accepted, page, Operation.created_at, Operation.id)
