"""All the SQL of billing.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.billing.domain import Kind, change, entries
from services.billing.models import Account, Operation
from services.contracts import AccountNotFound, Outcome, Payment
from services.kit.db.idempotency import Claim, Claimed
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused, TryAgain
from services.kit.web.pages import PageQuery, newest_first


class Movement(NamedTuple):
    """Money that somebody asks to be moved, as a row of `operations`; `change` is that of the user's balance."""

    id: UUID
    idempotency_key: str | None
    kind: Kind
    user_id: UUID
    amount: int
    debit: str
    credit: str
    change: int

    @classmethod
    def of(cls, kind: Kind, user_id: UUID, amount: int, id_: UUID | None = None, key: str | None = None) -> "Movement":
        return cls(id_ or uuid4(), key, kind, user_id, amount, *entries(kind, user_id), change(kind, amount))

    @classmethod
    def of_payment(cls, payment: Payment) -> "Movement":
        return cls.of(Kind.PAYMENT, payment.user_id, payment.amount, payment.operation_id)


class Moved(NamedTuple):
    """The outcome of a movement, the operation that has it, and the balance right after it, if money was moved.

    `is_new` is false where the outcome was decided before, by the same id or under the same Idempotency-Key.
    """

    outcome: Outcome
    operation_id: UUID
    balance: int | None = None
    is_new: bool = True


#: Decide movements, record them and move the money, in one statement: if one of them is not new, all of it fails.
#: Movements of one account are decided in their order, up to and including the first that is refused. Those after it
#: are left for the next statement, which knows what the account can still pay. Nothing is decided, and nothing stored,
#: for an account that is not there, or that could not be locked.
MOVE_SQL = """
    with asked as (
        select *, sum(change) over (partition by user_id order by number) as total from {movements}
    ), locked as (
        select user_id, balance from accounts where user_id = any(array(select user_id from asked))
        -- always in the same sequence, to avoid deadlocks
        order by user_id for update<SKIP LOCKED>
    ), decided as (
        select asked.*, balance + total as balance_after,
               coalesce(min(balance + total) over before, 0) >= 0 as has_its_turn
        from asked join locked using (user_id)
        window before as (partition by user_id order by number rows between unbounded preceding and 1 preceding)
    ), moved as (
        insert into operations (id, idempotency_key, kind, user_id, amount, debit, credit, outcome, balance, created_at)
        select id, idempotency_key, kind, user_id, amount, debit, credit,
               case when balance_after >= 0 then 'accepted' else 'insufficient_funds' end,
               case when balance_after >= 0 then balance_after end,
               clock_timestamp() + number * interval '1 microsecond'
        from decided where has_its_turn order by number
        returning id, outcome, balance
    ), taken as (
        -- Set the decided balance, do not subtract: PostgreSQL first evaluates the CHECK on the row as it was when the
        -- statement began, before a deposit that committed while we waited for the lock.
        update accounts set balance = last.balance_after
        from (select distinct on (user_id) user_id, balance_after from decided
              where has_its_turn and balance_after >= 0 order by user_id, number desc) as last
        where accounts.user_id = last.user_id
    )
    select id, outcome, balance from moved
    union all
    select id, case when exists (select from accounts where accounts.user_id = asked.user_id)
                    then 'busy' else 'account_not_found' end, null
    from asked where user_id not in (select user_id from locked)"""
MOVE = PreparedStatement("move", MOVE_SQL.replace("<SKIP LOCKED>", " skip locked"), movements=Movement)
MOVE_WAITING = PreparedStatement("move_waiting", MOVE_SQL.replace("<SKIP LOCKED>", ""), movements=Movement)

REFUSE = PreparedStatement(
    "refuse",
    """
    insert into operations (id, idempotency_key, kind, user_id, amount, debit, credit, outcome)
    select id, idempotency_key, kind, user_id, amount, debit, credit, 'account_not_found' from {movements}
    on conflict do nothing""",
    movements=Movement,
)

OPEN = PreparedStatement(
    "open_accounts",
    """
    insert into accounts (user_id, balance)
    select distinct user_id, 0 from unnest({ids}) as given (user_id) order by user_id on conflict do nothing""",
    ids="uuid[]",
)

#: What was decided before is found as for any other request with an Idempotency-Key.
DECIDED = Claim(Operation, Movement, same=("kind", "user_id", "amount"))


def open_accounts(connection: Connection, user_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Open the accounts of these users with nothing in them, or find them open."""
    OPEN.run(connection, ids=list(user_ids))
    return user_ids


def get_account(session: Session, user_id: UUID) -> Account:
    """Return the account of a user. Raises AccountNotFound."""
    account = session.get(Account, user_id)
    if account is None:
        raise AccountNotFound(str(user_id))
    return account


def move(connection: Connection, movements: Sequence[Movement], wait: bool) -> list[Moved | KeyReused]:
    """Carry out movements, each once, and return their outcomes, in the same order.

    KeyReused is the outcome of one whose id or key was used with other values. An account that somebody else holds is
    waited for, LOCK_TIMEOUT_S at the most, if `wait` says so; its movements are BUSY otherwise.
    """
    asked: dict[UUID, Movement] = {}
    for movement in movements:
        asked.setdefault(movement.id, movement)
    outcomes: dict[UUID, Moved | KeyReused] = {}
    while rest := [movement for movement in asked.values() if movement.id not in outcomes]:
        try:
            rows = (MOVE_WAITING if wait else MOVE).run(connection, movements=rest)
            outcomes |= {row.id: Moved(Outcome(row.outcome), row.id, row.balance) for row in rows}
        except IntegrityError:  # nothing is done: some were decided before
            if not (decided := find_decided(connection, rest)):
                raise
            outcomes |= decided
        except TryAgain:  # rolled back
            # MOVE_WAITING: the account stayed locked. MOVE: another transaction is inserting the same id. What was
            # decided before is found all the same.
            busy = {movement.id: Moved(Outcome.BUSY, movement.id) for movement in rest}
            outcomes |= busy | find_decided(connection, rest)
    return [outcomes[one.id] if one == asked[one.id] else KeyReused() for one in movements]


def refuse(connection: Connection, movement: Movement) -> Moved | KeyReused:
    """Record that a movement is refused as there is no account, unless it was decided before; return what is stored."""
    REFUSE.run(connection, movements=[movement])
    return find_decided(connection, [movement])[movement.id]


def find_decided(connection: Connection, movements: Sequence[Movement]) -> dict[UUID, Moved | KeyReused]:
    """Return the outcomes of those movements that were decided before, by the id of each."""
    found = DECIDED.find(connection, movements).items()
    return {id_: one if isinstance(one, KeyReused) else _moved(one) for id_, one in found}


def _moved(claimed: Claimed) -> Moved:
    operation: Row[Any] = claimed.row  # type: ignore[assignment]  # found ones have a row
    # A stored `account_not_found` is the final REFUSED; ACCOUNT_NOT_FOUND on the wire is never stored.
    is_refused = operation.outcome == Outcome.ACCOUNT_NOT_FOUND
    outcome = Outcome.REFUSED if is_refused else Outcome(operation.outcome)
    return Moved(outcome, operation.id, operation.balance, claimed.is_new)


def statement(session: Session, user_id: UUID, page: PageQuery) -> tuple[Sequence[Operation], str | None]:
    """Return a page of the operations that moved the user's money, newest first."""
    accepted = select(Operation).where(Operation.user_id == user_id, Operation.outcome == Outcome.ACCEPTED)
    return newest_first(session, accepted, page, Operation.created_at, Operation.id)
