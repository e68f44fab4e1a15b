"""What the databases themselves enforce, and how they come to be."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import sqlalchemy.event
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from services.billing import models as billing
from services.billing import store as billing_store
from services.billing.domain import OperationKind
from services.billing.store import Moved, Movement, OperationsQuery, outcome_of
from services.contracts import Outcome, Payment
from services.kit.db.database import Autocommit
from services.kit.db.migrations import VERSION_TABLE
from services.kit.errors import KeyReused
from services.kit.outbox.statements import count_waiting, lease_batch, mark_published, release, remove_old
from services.kit.outbox.table import OutgoingEvent
from services.local.postgres import Postgres
from services.local.stack import ROOT
from services.ops import migrate
from services.ops.migrate import upgrade
from services.orders import models as orders
from services.orders import store as orders_store
from services.orders.broker import OrdersService
from services.orders.domain import OrderReason, OrderStatus, OrderView, apply_outcome, event_for, rejected
from services.orders.store import OrderRequest, OrdersQuery
from services.shop import SERVICES


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(SERVICES)
        for service in SERVICES:
            upgrade(service, server.url(service))
        yield server


@pytest.fixture(scope="module")
def engines(postgres: Postgres) -> Iterator[dict[str, Engine]]:
    options = {"options": "-c lock_timeout=5s"}  # a test that waits for itself ends
    engines = {
        service: create_engine(postgres.url(service), pool_size=32, connect_args=options) for service in SERVICES
    }
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
def billing_db(engines: dict[str, Engine]) -> sessionmaker[Session]:
    return sessionmaker(engines["billing"], expire_on_commit=False)


@pytest.fixture
def orders_db(engines: dict[str, Engine]) -> sessionmaker[Session]:
    return sessionmaker(engines["orders"], expire_on_commit=False)


def new_account(db: sessionmaker[Session], balance: int = 0) -> UUID:
    user_id = uuid4()
    with db.begin() as session:
        session.add(billing.Account(user_id=user_id))
    if balance:
        deposit(db, user_id, balance)
    return user_id


def deposit(db: sessionmaker[Session], user_id: UUID, amount: int) -> UUID:
    with Autocommit(db.kw["bind"]) as connection:
        [moved] = billing_store.move(connection, [Movement.of(OperationKind.DEPOSIT, user_id, amount)], wait=True)
    assert isinstance(moved, Moved) and moved.outcome == Outcome.ACCEPTED
    return moved.operation_id


def pay(db: sessionmaker[Session], operation_id: UUID, user_id: UUID, amount: int) -> str | None:
    [outcome] = pay_all(db, Payment(operation_id=operation_id, user_id=user_id, amount=amount))
    return outcome


def pay_all(db: sessionmaker[Session], *payments: Payment, wait: bool = True) -> list[str]:
    with Autocommit(db.kw["bind"]) as connection:
        moved = billing_store.move(connection, [Movement.of_payment(payment) for payment in payments], wait)
    return [outcome_of(one) for one in moved]


def refuse(db: sessionmaker[Session], payment: Payment) -> str:
    with Autocommit(db.kw["bind"]) as connection:
        return outcome_of(billing_store.refuse(connection, Movement.of_payment(payment)))


def request(key: str | None = None, price: int = 5, user_id: UUID | None = None) -> OrderRequest:
    return OrderRequest(uuid4(), uuid4(), key, user_id or uuid4(), price)


def place(db: sessionmaker[Session], *requests: OrderRequest, retry_after_s: float = 60) -> list[Any]:
    with Autocommit(db.kw["bind"]) as connection:
        return orders_store.store_orders(connection, requests, retry_after_s)


def balance(db: sessionmaker[Session], user_id: UUID) -> int:
    with db() as session:
        return billing_store.get_account(session, user_id).balance


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrations_make_what_the_models_say(engines: dict[str, Engine], service: str):
    _, metadata = migrate.of(service)
    with engines[service].connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, cast(Any, metadata)) == []


def test_migrations_may_run_twice_and_by_several_at_once(postgres: Postgres):
    postgres.ensure_databases(["fresh"])
    environment = {**os.environ, "ORDERS_DATABASE_URL": postgres.url("fresh")}
    command = [sys.executable, "-m", "services.ops.cli", "migrate", "orders"]
    started = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    assert [one.communicate(timeout=60)[0] for one in started] == [b"orders: at the newest version\n"] * 3
    upgrade("orders", postgres.url("fresh"))
    engine = create_engine(postgres.url("fresh"))
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from orders")) == 0
    engine.dispose()


def test_a_balance_below_zero_is_refused_by_the_database(billing_db: sessionmaker[Session]):
    user_id = new_account(billing_db, 5)
    with pytest.raises(IntegrityError, match="accounts_balance_not_negative"), billing_db.begin() as session:
        session.execute(text("update accounts set balance = -1 where user_id = :id"), {"id": user_id})
    assert balance(billing_db, user_id) == 5


@pytest.mark.parametrize(
    "wrong, constraint",
    [
        ({"amount": 0}, "operations_amount_positive"),
        ({"amount": -5}, "operations_amount_positive"),
        ({"kind": "gift"}, "operations_kind"),
        ({"outcome": "maybe"}, "operations_outcome"),
        ({"debit": "cash", "credit": "revenue"}, "operations_ledger_accounts"),
        ({"balance": 5}, "operations_balance"),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused_by_the_database(billing_db, wrong, constraint):
    user_id = uuid4()
    good = {
        "kind": "deposit",
        "user_id": user_id,
        "amount": 1,
        "debit": "cash",
        "credit": str(user_id),
        "outcome": "insufficient_funds",
        "balance": None,
    }
    with pytest.raises(IntegrityError, match=constraint), billing_db.begin() as session:
        session.execute(insert(billing.Operation).values(good | wrong))


def test_an_operation_is_paid_once_however_many_ask_at_once(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 100), uuid4()
    with ThreadPoolExecutor(16) as pool:
        outcomes = set(pool.map(lambda _: pay(billing_db, operation_id, user_id, 30), range(32)))
    assert outcomes == {Outcome.ACCEPTED}
    assert balance(billing_db, user_id) == 70


def test_a_refusal_stays_a_refusal(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 10), uuid4()
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.INSUFFICIENT_FUNDS
    deposit(billing_db, user_id, 100)
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.INSUFFICIENT_FUNDS
    assert balance(billing_db, user_id) == 110


def test_a_payment_for_an_account_that_is_not_there_yet_is_decided_when_it_is(billing_db: sessionmaker[Session]):
    user_id, operation_id = uuid4(), uuid4()
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.ACCOUNT_NOT_FOUND
    with billing_db.begin() as session:
        assert session.get(billing.Operation, operation_id) is None
        session.add(billing.Account(user_id=user_id))
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.INSUFFICIENT_FUNDS


def test_a_payment_that_is_refused_for_want_of_an_account_is_so_for_ever(billing_db: sessionmaker[Session]):
    payment = Payment(operation_id=uuid4(), user_id=uuid4(), amount=30)
    assert refuse(billing_db, payment) == Outcome.REFUSED
    with billing_db.begin() as session:
        session.add(billing.Account(user_id=payment.user_id))
    assert pay_all(billing_db, payment) == [Outcome.REFUSED]
    assert refuse(billing_db, payment) == Outcome.REFUSED


def test_what_was_paid_cannot_be_refused(billing_db: sessionmaker[Session]):
    payment = Payment(operation_id=uuid4(), user_id=new_account(billing_db, 100), amount=30)
    assert pay_all(billing_db, payment) == [Outcome.ACCEPTED]
    assert refuse(billing_db, payment) == Outcome.ACCEPTED
    assert balance(billing_db, payment.user_id) == 70


def test_an_operation_id_belongs_to_one_payment(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 100), uuid4()
    pay(billing_db, operation_id, user_id, 30)
    good = Payment(operation_id=uuid4(), user_id=user_id, amount=1)
    for other_user, other_amount in ((user_id, 31), (new_account(billing_db, 100), 30)):
        wrong = Payment(operation_id=operation_id, user_id=other_user, amount=other_amount)
        assert pay_all(billing_db, wrong, good) == [Outcome.MISMATCH, Outcome.ACCEPTED]
    twice = [Payment(operation_id=good.operation_id, user_id=user_id, amount=amount) for amount in (1, 2)]
    assert pay_all(billing_db, *twice) == [Outcome.ACCEPTED, Outcome.MISMATCH]
    assert balance(billing_db, user_id) == 69


def test_an_operation_id_of_another_kind_is_no_payment(billing_db: sessionmaker[Session]):
    user_id = new_account(billing_db)
    deposit_id = deposit(billing_db, user_id, 30)
    assert pay(billing_db, deposit_id, user_id, 30) == Outcome.MISMATCH
    assert balance(billing_db, user_id) == 30


def test_a_locked_account_is_left_out_and_holds_up_nobody(billing_db: sessionmaker[Session]):
    held, free = new_account(billing_db, 100), new_account(billing_db, 100)
    payments = [Payment(operation_id=uuid4(), user_id=user_id, amount=30) for user_id in (held, free, held)]
    with billing_db.begin() as session:
        session.execute(select(billing.Account).where(billing.Account.user_id == held).with_for_update())
        started = time.monotonic()
        assert pay_all(billing_db, *payments, wait=False) == [Outcome.BUSY, Outcome.ACCEPTED, Outcome.BUSY]
        assert time.monotonic() - started < 1
        assert session.get(billing.Operation, payments[0].operation_id) is None
    assert pay_all(billing_db, *payments, wait=False) == [Outcome.ACCEPTED] * 3
    assert (balance(billing_db, held), balance(billing_db, free)) == (40, 70)


def test_payments_from_one_account_at_once_never_overdraw_it(billing_db: sessionmaker[Session]):
    user_id = new_account(billing_db, 100)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: pay(billing_db, uuid4(), user_id, 7), range(40)))
    assert outcomes.count(Outcome.ACCEPTED) == 14
    assert balance(billing_db, user_id) == 2


def test_deposits_and_payments_of_one_account_at_once_all_find_it_as_it_is(billing_db: sessionmaker[Session]):
    """Most of them wait for the account, and were begun when it held less or more than they find."""
    user_id, kinds = (
        new_account(billing_db, 10),
        [OperationKind.PAYMENT, OperationKind.DEPOSIT, OperationKind.WITHDRAWAL, OperationKind.DEPOSIT],
    )

    def move(number: int) -> int:
        movement = Movement.of(kinds[number % 4], user_id, 7)
        with Autocommit(billing_db.kw["bind"]) as connection:
            [moved] = billing_store.move(connection, [movement], wait=True)
        assert isinstance(moved, Moved)
        return movement.change if moved.outcome == Outcome.ACCEPTED else 0

    with ThreadPoolExecutor(16) as pool:
        moved = sum(pool.map(move, range(400)))
    assert balance(billing_db, user_id) == 10 + moved


def test_payments_together_end_as_they_would_one_after_the_other(billing_db: sessionmaker[Session]):
    """Against a model of a few lines, for random payments from few accounts that can pay only some of them."""
    chance = random.Random(1)
    for _ in range(30):
        left = {new_account(billing_db, money): money for money in (chance.randrange(1, 40) for _ in range(3))}
        payments = [
            Payment(operation_id=uuid4(), user_id=chance.choice([*left, UUID(int=7)]), amount=chance.randrange(1, 15))
            for _ in range(chance.randrange(1, 25))
        ]
        expected = {}
        for payment in payments:
            if payment.user_id not in left:
                expected[payment.operation_id] = Outcome.ACCOUNT_NOT_FOUND
            elif left[payment.user_id] < payment.amount:
                expected[payment.operation_id] = Outcome.INSUFFICIENT_FUNDS
            else:
                left[payment.user_id] -= payment.amount
                expected[payment.operation_id] = Outcome.ACCEPTED
        assert pay_all(billing_db, *payments) == [expected[payment.operation_id] for payment in payments]
        assert {user_id: balance(billing_db, user_id) for user_id in left} == left
        again = chance.sample(payments, len(payments))
        assert pay_all(billing_db, *again) == [expected[payment.operation_id] for payment in again]
        for user_id in left:  # each line of the statement tells the balance right after it
            with billing_db() as session:
                lines, _ = billing_store.statement(session, user_id, OperationsQuery(limit=200))
            running = 0
            for line in reversed(lines):
                running += line.amount if line.kind == OperationKind.DEPOSIT else -line.amount
                assert line.balance == running


def test_money_that_comes_in_with_payments_pays_for_those_after_it(billing_db: sessionmaker[Session]):
    chance = random.Random(2)
    for _ in range(30):
        user_id, left, expected = new_account(billing_db, 10), 10, []
        movements = [
            Movement.of(chance.choice(list(OperationKind)), user_id, chance.randrange(1, 25))
            for _ in range(chance.randrange(1, 15))
        ]
        for movement in movements:
            is_accepted = left + movement.change >= 0
            left += movement.change if is_accepted else 0
            expected.append((Outcome.ACCEPTED, left) if is_accepted else (Outcome.INSUFFICIENT_FUNDS, None))
        with Autocommit(billing_db.kw["bind"]) as connection:
            moved = billing_store.move(connection, movements)
        assert [(one.outcome, one.balance) for one in moved if isinstance(one, Moved)] == expected
        assert balance(billing_db, user_id) == left


def test_a_poor_account_does_not_hold_up_the_others_with_a_statement_for_each(billing_db: sessionmaker[Session]):
    poor, rich = new_account(billing_db, 10), new_account(billing_db, 1000)
    payments = [Payment(operation_id=uuid4(), user_id=poor, amount=6 + number % 9) for number in range(60)]
    statements: list[str] = []
    with listening(billing_db.kw["bind"], "before_cursor_execute", lambda *said: statements.append(said[2])):
        outcomes = pay_all(billing_db, *payments, Payment(operation_id=uuid4(), user_id=rich, amount=6), wait=False)
    assert outcomes == [Outcome.ACCEPTED, *[Outcome.INSUFFICIENT_FUNDS] * 59, Outcome.ACCEPTED]
    assert len([one for one in statements if one.startswith("execute move ")]) == 2


@contextmanager
def listening(target: Engine, event: str, listener: Callable[..., object]) -> Iterator[None]:
    sqlalchemy.event.listen(target, event, listener)
    try:
        yield
    finally:
        sqlalchemy.event.remove(target, event, listener)


def test_a_payment_that_was_made_before_takes_nothing_from_those_that_come_with_it(billing_db: sessionmaker[Session]):
    user_id = new_account(billing_db, 100)
    first, second = (Payment(operation_id=uuid4(), user_id=user_id, amount=50) for _ in range(2))
    assert pay_all(billing_db, first) == [Outcome.ACCEPTED]
    assert pay_all(billing_db, first, second, second) == [Outcome.ACCEPTED] * 3
    assert balance(billing_db, user_id) == 0


def test_payments_that_come_together_in_any_order_and_again_are_made_once(billing_db: sessionmaker[Session]):
    users = [new_account(billing_db, 1000) for _ in range(5)]
    payments = [Payment(operation_id=uuid4(), user_id=random.choice(users), amount=7) for _ in range(40)]
    batches = [random.sample(payments, 20) for _ in range(32)]
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda batch: pay_all(billing_db, *batch), batches))
    assert {outcome for some in outcomes for outcome in some} == {Outcome.ACCEPTED}
    made = {payment for batch in batches for payment in batch}
    assert sum(balance(billing_db, user_id) for user_id in users) == 5000 - 7 * len(made)


def test_a_crash_before_the_commit_moves_nothing(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 100), uuid4()
    with billing_db.kw["bind"].connect() as connection:
        movement = Movement.of(OperationKind.PAYMENT, user_id, 30, operation_id)
        [moved] = billing_store.MOVE.run(connection, movements=[movement])
        assert moved.outcome == Outcome.ACCEPTED
        connection.rollback()
    assert balance(billing_db, user_id) == 100
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.ACCEPTED


def end(connection: Connection, ended: list[OrderView]) -> tuple[list[OrderView], list[OutgoingEvent]]:
    events = {order.id: event for order in ended if (event := event_for(order))}
    recorded = orders_store.end_orders(connection, ended, events, 60)
    return [one.order for one in recorded], [event for one in recorded for event in one.events]


def test_an_order_ends_once(orders_db: sessionmaker[Session]):
    [(order, _, _)] = place(orders_db, request())
    paid = order.model_copy(update={"status": OrderStatus.PAID})

    def finish(_: int) -> int:
        with Autocommit(orders_db.kw["bind"]) as connection:
            _, events = end(connection, [paid])
            return len(events)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(finish, range(16))) == 1
    with orders_db() as session:
        of_order = orders.OutboxEvent.body["order_id"].astext == str(order.id)
        [body] = session.scalars(select(orders.OutboxEvent.body).where(of_order))
        assert body["price"] == 5
        assert session.get_one(orders.Order, order.id).status == OrderStatus.PAID


def test_orders_that_end_together_each_have_their_own_end(orders_db: sessionmaker[Session]):
    requests = [request() for _ in range(4)]
    pending = [order for order, _, _ in place(orders_db, *requests)]
    outcomes = [Outcome.ACCEPTED, Outcome.INSUFFICIENT_FUNDS, Outcome.MISMATCH, Outcome.ACCEPTED]
    ended = [apply_outcome(order, outcome) for order, outcome in zip(pending, outcomes, strict=True)]
    with Autocommit(orders_db.kw["bind"]) as connection:
        now, events = end(connection, ended)
    assert now == ended
    assert [event.type for event in events] == ["order_paid", "order_rejected", "order_paid"]
    with orders_db() as session:
        assert [OrderView.model_validate(session.get_one(orders.Order, order.id)) for order in pending] == ended


def test_a_key_stores_one_order_and_knows_its_values(orders_db: sessionmaker[Session]):
    key, user_id = str(uuid4()), uuid4()

    with ThreadPoolExecutor(8) as pool:
        placed = [
            one
            for pair in pool.map(
                lambda _: place(orders_db, request(key, 5, user_id), request(key, 5, user_id)), range(16)
            )
            for one in pair
        ]
    assert len({order.id for order, _, _ in placed}) == 1
    assert sum(is_new for _, is_new, _ in placed) == 1
    reused, (order, is_new, _), (unkeyed, _, _) = place(
        orders_db, request(key, 6, user_id), request(key, 5, user_id), request(None, 6, user_id)
    )
    assert isinstance(reused, KeyReused)
    assert (order, is_new) == (placed[0][0], False)
    assert unkeyed.price == 6


@pytest.mark.parametrize("key", [None, "with a key"])
def test_to_store_an_order_again_is_to_find_it_stored(orders_db: sessionmaker[Session], key: str | None):
    """What a round that lost its reply may have done: the ids are the request's own."""
    one = request(key and str(uuid4()))
    first, again = place(orders_db, one), place(orders_db, one)
    assert first == again
    assert first[0].is_new
    with orders_db() as session:
        assert session.scalars(select(func.count()).where(orders.Order.request_id == one.request_id)).one() == 1


def test_a_promise_is_kept_also_by_the_list(orders_db: sessionmaker[Session]):
    promised, forgotten, paid = (order for order, _, _ in place(orders_db, *[request() for _ in range(3)]))
    with Autocommit(orders_db.kw["bind"]) as connection:
        assert orders_store.promise(connection, [promised.id]) == [(promised, True)]
        ended = [rejected(order, OrderReason.ACCOUNT_NOT_FOUND) for order in (promised, forgotten)]
        end(connection, [*ended, apply_outcome(paid, Outcome.ACCEPTED)])
        [(now, was_promised)] = orders_store.promise(connection, [paid.id])  # too late: it has ended
        assert (now.status, was_promised) == (OrderStatus.PAID, False)
    with orders_db() as session:
        for order, shown in ((promised, 1), (forgotten, 0), (paid, 1)):
            found, _ = orders_store.newest(session, OrdersQuery(user_id=order.user_id))
            assert len(found) == shown


def test_two_recoveries_never_take_the_same_order(orders_db: sessionmaker[Session]):
    place(orders_db, *[request() for _ in range(20)], retry_after_s=-1)

    def take(_: int) -> list[UUID]:
        with Autocommit(orders_db.kw["bind"]) as connection:
            due = OrdersService.recovery.lease.run(connection, most=5, pause=timedelta(seconds=60))
            return [order.id for order in due]

    with ThreadPoolExecutor(8) as pool:
        taken = [order_id for ids in pool.map(take, range(8)) for order_id in ids]
    assert len(taken) == len(set(taken)) >= 20


def add_events(db: sessionmaker[Session], count: int) -> None:
    with db.begin() as session:
        session.execute(text("delete from outbox"))
        session.execute(
            insert(orders.OutboxEvent),
            [{"event_id": uuid4(), "type": "order_paid", "body": {"number": number}} for number in range(count)],
        )


def test_two_relays_never_lease_the_same_event(orders_db: sessionmaker[Session]):
    add_events(orders_db, 40)

    def take(_: int) -> list[str]:
        with Autocommit(orders_db.kw["bind"]) as connection:
            return [event.event_id for event in lease_batch(connection, 10, 60)]

    with ThreadPoolExecutor(8) as pool:
        taken = [id_ for ids in pool.map(take, range(8)) for id_ in ids]
    assert len(taken) == len(set(taken)) == 40


def test_an_event_that_is_not_published_is_due_again_when_its_lease_has_ended(orders_db: sessionmaker[Session]):
    add_events(orders_db, 3)
    with Autocommit(orders_db.kw["bind"]) as connection:
        first = lease_batch(connection, 10, 60)
        assert [json.loads(event.body)["number"] for event in first] == [0, 1, 2]
        assert lease_batch(connection, 10, 60) == []
        connection.execute(text("update outbox set claimed_until = claimed_until - interval '61 s'"))
        assert lease_batch(connection, 10, 60) == first
        release(connection, [first[1].event_id], 0)
        assert lease_batch(connection, 10, 60) == [first[1]]
        assert not mark_published(connection, [event.event_id for event in first[:2]], "http"), "it is not theirs"
        assert mark_published(connection, [event.event_id for event in first[:2]], "amqp")
        assert count_waiting(connection)[0] == 1


def test_a_lease_is_counted_by_the_clock_of_the_database(orders_db: sessionmaker[Session]):
    add_events(orders_db, 1)
    with orders_db.begin() as session:
        lease_batch(session.connection(), 10, 60)
        left = session.scalars(select(orders.OutboxEvent.claimed_until - func.now())).one()
    assert left == timedelta(seconds=60)


def test_only_old_events_that_were_published_are_removed_and_so_many_at_a_time(orders_db: sessionmaker[Session]):
    add_events(orders_db, 10)
    with Autocommit(orders_db.kw["bind"]) as connection:
        connection.execute(
            text("""update outbox set published_at = now() - interval '2 hours'
                                   where (body->>'number')::int not in (2, 9)""")
        )
        connection.execute(text("update outbox set published_at = now() where (body->>'number')::int = 9"))
        removed, looked_to = remove_old(connection, 5, 3600, 0)
        assert removed == 4  # the five oldest, but for number 2, which waits
        assert remove_old(connection, 5, 3600, looked_to)[0] == 4
        assert remove_old(connection, 5, 3600, 0) == (0, 0)
        left = connection.execute(text("select body->>'number' from outbox order by id")).scalars().all()
    assert left == ["2", "9"]
