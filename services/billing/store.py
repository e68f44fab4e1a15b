"""All the SQL of billing.

A function that takes a `Connection` of `db.autocommit` commits each statement; one that takes a `Session` is part of
its transaction.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.billing import models
from services.billing.domain import OperationKind, change, entries
from services.billing.models import Account, Operation
from services.contracts import AccountNotFound, Outcome, Payment
from services.kit.db.idempotency import Claim, Claimed
from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused, TryAgain
from services.kit.event import Event
from services.kit.ids import new_id
from services.kit.outbox.table import OutgoingEvent, StatementWithEvents
from services.kit.web.pages import PageQuery, newest_first


class Movement(NamedTuple):
    """Money that somebody asks to be moved, as a row of `operations`; `change` is that of the user's balance."""

    id: UUID
    idempotency_key: str | None
    kind: OperationKind
    user_id: UUID
    amount: int
    debit: str
    credit: str
    change: int

    @classmethod
    def of(
        cls, kind: OperationKind, user_id: UUID, amount: int, id_: UUID | None = None, key: str | None = None
    ) -> "Movement":
        return cls(id_ or new_id(), key, kind, user_id, amount, *entries(kind, user_id), change(kind, amount))

    @classmethod
    def of_payment(cls, payment: Payment) -> "Movement":
        return cls.of(OperationKind.PAYMENT, payment.user_id, payment.amount, payment.operation_id)


class WaitingPayment(NamedTuple):
    """A payment that waits for its account, as a row."""

    order_id: UUID
    user_id: UUID
    amount: int
    traceparent: str | None = None

    @property
    def id(self) -> UUID:
        return self.order_id


class Moved(NamedTuple):
    """The outcome of a movement, the operation that has it, when that was decided, and the balance right after it.

    There is no balance if no money was moved, and no time if nothing was decided.

    `is_new` is false where the outcome was decided before, by the same id or under the same Idempotency-Key.
    """

    outcome: Outcome
    operation_id: UUID
    balance: int | None = None
    created_at: datetime | None = None
    is_new: bool = True


class OperationsQuery(PageQuery):
    """The query of the statement of an account."""

    LIST: ClassVar[str] = "operations"


#: Decide movements, record them and move the money, in one statement: if one of them is not new, all of it fails.
#: Movements of one account are decided in their order, up to and including the first that is refused. Those after it
#: are left for the next statement, which knows what the account can still pay. But what it could not pay even if
#: nothing before it were taken is refused at once, so that a poor account does not hold up the others with a statement
#: for each. Nothing is decided, and nothing stored, for an account that is not there, or that could not be locked.
MOVING = """
    asked as (
        select *, sum(greatest(change, 0)) over (partition by user_id order by number) as paid_in from {movements}
    ), locked as (
        select user_id, balance from accounts where user_id = any(array(select user_id from asked))
        -- always in the same sequence, to avoid deadlocks
        order by user_id for update<SKIP LOCKED>
    ), possible as (
        select asked.*, balance, balance + paid_in + least(change, 0) >= 0 as is_possible
        from asked join locked using (user_id)
    ), totalled as (
        select *, balance + coalesce(sum(change) filter (where is_possible) over so_far, 0) as balance_after
        from possible window so_far as (partition by user_id order by number)
    ), decided as (
        select *, is_possible and balance_after >= 0 as is_accepted,
               not is_possible or coalesce(min(balance_after) over before, 0) >= 0 as has_its_turn
        from totalled
        window before as (partition by user_id order by number rows between unbounded preceding and 1 preceding)
    ), moved as (
        insert into operations (id, idempotency_key, kind, user_id, amount, debit, credit, outcome, balance, created_at)
        select id, idempotency_key, kind, user_id, amount, debit, credit,
               case when is_accepted then 'accepted' else 'insufficient_funds' end,
               case when is_accepted then balance_after end,
               clock_timestamp() + number * interval '1 microsecond'
        from decided where has_its_turn order by number
        returning id, outcome, balance, created_at
    ), taken as (
        -- Set the decided balance, do not subtract: PostgreSQL first evaluates the CHECK on the row as it was when the
        -- statement began, before a deposit that committed while we waited for the lock.
        update accounts set balance = last.balance_after
        from (select distinct on (user_id) user_id, balance_after from decided
              where has_its_turn and is_accepted order by user_id, number desc) as last
        where accounts.user_id = last.user_id
    )"""
MOVED = """
    select id, outcome, balance, created_at from moved
    union all
    select id, case when exists (select from accounts where accounts.user_id = asked.user_id)
                    then 'busy' else 'account_not_found' end, null, null
    from asked where user_id not in (select user_id from locked)"""
MOVING_FREE = MOVING.replace("<SKIP LOCKED>", " skip locked")
MOVE = PreparedStatement("move", f"with {MOVING_FREE} {MOVED}", movements=Movement)
MOVE_WAITING = PreparedStatement(
    "move_waiting", f"with {MOVING.replace('<SKIP LOCKED>', '')} {MOVED}", movements=Movement
)
MOVE_AND_TELL = StatementWithEvents("move_and_tell", MOVED, before=MOVING_FREE, by_outcome=True, movements=Movement)

#: What was decided before is told again, by new events, to whoever seems not to have heard.
TELL = StatementWithEvents("tell_of_payments", "select id from operations where id = any({ids})", ids="uuid[]")

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
    select distinct user_id, 0 from unnest({ids}) as given (user_id) order by user_id on conflict do nothing
    returning user_id""",
    ids="uuid[]",
)

#: It follows OPEN, and is as good as one statement with it: who asks for an account asks again until this is done.
TELL_OPEN = StatementWithEvents(
    "tell_of_accounts", "select user_id as id from accounts where user_id = any({ids})", ids="uuid[]"
)

LET_WAIT = PreparedStatement(
    "let_payments_wait",
    """
    insert into waiting_payments (order_id, user_id, amount, traceparent)
    select order_id, user_id, amount, traceparent from {payments} order by order_id on conflict do nothing""",
    payments=WaitingPayment,
)

#: Replicas that try the same payment find that it was decided; the pause is there to save them the work.
WAITING_DUE = PreparedStatement(
    "waiting_payments_due",
    """
    update waiting_payments set retry_at = now() + {pause}
    where order_id in (select order_id from waiting_payments where retry_at <= now()
                       order by retry_at limit {most} for update skip locked)
    returning order_id, user_id, amount, traceparent, since < now() - {patience} as is_overdue""",
    most="integer",
    pause="interval",
    patience="interval",
)

STOP_WAITING = PreparedStatement(
    "stop_payments_waiting", "delete from waiting_payments where order_id = any({ids})", ids="uuid[]"
)

#: What was decided before is found as for any other request with an Idempotency-Key.
DECIDED = Claim(Operation, Movement, same=("kind", "user_id", "amount"), scope="user_id")


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


class Telling(NamedTuple):
    """The event of each outcome that each movement may have, and for how long only this process may publish it."""

    events: Mapping[tuple[UUID, str], OutgoingEvent]
    lease_s: float

    def of(self, movements: Sequence[Movement]) -> dict[str, Any]:
        """Return the parameters of MOVE_AND_TELL for `movements`."""
        ids = {movement.id for movement in movements}
        return {"events": {key: one for key, one in self.events.items() if key[0] in ids}, "lease_s": self.lease_s}


def move(
    connection: Connection, movements: Sequence[Movement], wait: bool = False, telling: Telling | None = None
) -> list[Moved | KeyReused]:
    """Carry out movements, each once, and return their outcomes, in the same order.

    KeyReused is the outcome of one whose id or key was used with other values. An account that somebody else holds is
    waited for, LOCK_TIMEOUT_S at the most, if `wait` says so; its movements are BUSY otherwise. With `telling`, each
    movement that is decided by this has the event of its outcome written with it.
    """
    statement = MOVE_AND_TELL if telling else MOVE_WAITING if wait else MOVE
    asked: dict[UUID, Movement] = {}
    for movement in movements:
        asked.setdefault(movement.id, movement)
    outcomes: dict[UUID, Moved | KeyReused] = {}
    while rest := [movement for movement in asked.values() if movement.id not in outcomes]:
        try:
            rows = statement.run(connection, movements=rest, **(telling.of(rest) if telling else {}))
            outcomes |= {row.id: Moved(Outcome(row.outcome), row.id, row.balance, row.created_at) for row in rows}
        except IntegrityError:  # nothing is done: some were decided before
            if not (decided := find_decided(connection, rest)):
                raise
            outcomes |= {id_: _not_new(one) for id_, one in decided.items()}
        except TryAgain:  # rolled back
            # MOVE_WAITING: the account stayed locked. MOVE: another transaction is inserting the same id. What was
            # decided before is found all the same.
            busy = {movement.id: Moved(Outcome.BUSY, movement.id) for movement in rest}
            outcomes |= busy | {id_: _not_new(one) for id_, one in find_decided(connection, rest).items()}
    return [outcomes[one.id] if one == asked[one.id] else KeyReused() for one in movements]


def move_and_tell(
    connection: Connection,
    movements: Sequence[Movement],
    event_of: Callable[[Movement, Outcome], Event],
    lease_s: float,
) -> tuple[list[Moved | KeyReused], list[OutgoingEvent]]:
    """Carry out movements as `move` does, each with an event; tell again what was decided before.

    Return the outcomes, and the events that were written.
    """
    events = {
        (one.id, str(outcome)): OutgoingEvent.of(event_of(one, outcome))
        for one in movements
        for outcome in (Outcome.ACCEPTED, Outcome.INSUFFICIENT_FUNDS)
    }
    outcomes = move(connection, movements, telling=Telling(events, lease_s))
    written, again = [], {}
    for movement, moved in zip(movements, outcomes, strict=True):
        outcome = outcome_of(moved)
        if isinstance(moved, KeyReused) or not moved.is_new:
            again[movement.id] = OutgoingEvent.of(event_of(movement, outcome))
        elif (movement.id, str(outcome)) in events:
            written.append(events[movement.id, str(outcome)])
    if again:
        TELL.run(connection, ids=list(again), events=again, lease_s=lease_s)
    return outcomes, written + list(again.values())


def outcome_of(moved: Moved | KeyReused) -> Outcome:
    """Return the Outcome of a payment, as it goes over the wire."""
    return Outcome.MISMATCH if isinstance(moved, KeyReused) else moved.outcome


def open_and_tell(
    connection: Connection, events: Mapping[UUID, Event], lease_s: float
) -> tuple[set[UUID], list[OutgoingEvent]]:
    """Open accounts, or find them open, with an event for each, by its user; return which are new, and the events."""
    outgoing = {user_id: OutgoingEvent.of(event) for user_id, event in events.items()}
    new = set(OPEN.run(connection, ids=list(events)).scalars())
    TELL_OPEN.run(connection, ids=list(events), events=outgoing, lease_s=lease_s)
    return new, list(outgoing.values())


def refuse_and_tell(
    connection: Connection,
    movement: Movement,
    event_of: Callable[[Movement, Outcome], Event],
    lease_s: float,
) -> list[OutgoingEvent]:
    """Refuse a movement as `refuse` does, then tell what is stored; return the event.

    Who dies in between finds the movement refused when it comes again.
    """
    event = OutgoingEvent.of(event_of(movement, outcome_of(refuse(connection, movement))))
    TELL.run(connection, ids=[movement.id], events={movement.id: event}, lease_s=lease_s)
    return [event]


def let_wait(connection: Connection, payments: Sequence[WaitingPayment]) -> None:
    """Keep payments that cannot be decided now."""
    LET_WAIT.run(connection, payments=payments)


def waiting_of(connection: Connection, user_ids: Sequence[UUID]) -> list[WaitingPayment]:
    """Return the payments that wait for the accounts of these users."""
    columns = models.WaitingPayment
    found = select(columns.order_id, columns.user_id, columns.amount, columns.traceparent)
    found = found.where(columns.user_id.in_(user_ids))
    return [WaitingPayment(*row) for row in connection.execute(found)]


def waiting_due(
    connection: Connection, most: int, pause_s: float, patience_s: float
) -> tuple[list[WaitingPayment], set[UUID]]:
    """Return up to `most` payments that are to be tried again, and which of them have waited for `patience_s`.

    Nobody tries them again for `pause_s`.
    """
    rows = WAITING_DUE.run(
        connection, most=most, pause=timedelta(seconds=pause_s), patience=timedelta(seconds=patience_s)
    ).all()
    due = [WaitingPayment(row.order_id, row.user_id, row.amount, row.traceparent) for row in rows]
    return due, {row.order_id for row in rows if row.is_overdue}


def stop_waiting(connection: Connection, order_ids: Sequence[UUID]) -> None:
    """Forget payments that waited, and are decided now."""
    STOP_WAITING.run(connection, ids=list(order_ids))


def _not_new(found: Moved | KeyReused) -> Moved | KeyReused:
    return found if isinstance(found, KeyReused) else found._replace(is_new=False)


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
    return Moved(outcome, operation.id, operation.balance, operation.created_at, claimed.is_new)


def statement(session: Session, user_id: UUID, page: OperationsQuery) -> tuple[Sequence[Operation], str | None]:
    """Return a page of the operations that moved the user's money, newest first."""
    accepted = select(Operation).where(Operation.outcome == Outcome.ACCEPTED)
    return newest_first(session, accepted, page, Operation.created_at, Operation.id, [(Operation.user_id, user_id)])


def get_operation(session: Session, user_id: UUID, operation_id: UUID) -> Operation | None:
    """Return an operation that moved this user's money, or None."""
    operation = session.get(Operation, operation_id)
    is_theirs = operation and operation.user_id == user_id and operation.outcome == Outcome.ACCEPTED
    return operation if is_theirs else None
