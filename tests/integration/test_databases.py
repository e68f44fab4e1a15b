"""What the databases themselves enforce, and how they come to be."""
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from services.billing import models as billing
from services.billing import store as billing_store
from services.billing.domain import Kind
from services.common.idempotency import KeyReused
from services.common.migrations import SERVICES, configuration, upgrade
from services.common.outbox import claim
from services.contracts import OperationMismatch, Outcome
from services.local.postgres import Postgres
from services.local.stack import ROOT
from services.orders import models as orders
from services.orders import store as orders_store
from services.orders.domain import NewOrder, Status


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(SERVICES)
        for service in SERVICES:
            upgrade(service, server.url(service))
        yield server


@pytest.fixture(scope="module")
def engines(postgres: Postgres) -> Iterator[dict[str, Engine]]:
    engines = {service: create_engine(postgres.url(service), pool_size=32) for service in SERVICES}
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
        billing_store.open_account(session, user_id)
        if balance:
            operation, _ = billing_store.claim_movement(session, None, Kind.DEPOSIT, user_id, balance)
            billing_store.settle(session, operation)
    return user_id


def pay(db: sessionmaker[Session], operation_id: UUID, user_id: UUID, amount: int) -> str | None:
    with db.begin() as session:
        operation, is_new = billing_store.claim_payment(session, operation_id, user_id, amount)
        if is_new:
            billing_store.settle(session, operation)
    return operation.outcome


def balance(db: sessionmaker[Session], user_id: UUID) -> int:
    with db() as session:
        return billing_store.get_account(session, user_id).balance


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrations_make_what_the_models_say(engines: dict[str, Engine], service: str):
    metadata = configuration(service, "").attributes["metadata"]
    with engines[service].connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrations_may_run_twice_and_by_several_at_once(postgres: Postgres):
    postgres.ensure_databases(["fresh"])
    environment = {**os.environ, "ORDERS_DATABASE_URL": postgres.url("fresh")}
    command = [sys.executable, "-m", "services.cli", "migrate", "orders"]
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


@pytest.mark.parametrize("wrong, constraint", [
    ({"amount": 0}, "operations_amount_positive"), ({"amount": -5}, "operations_amount_positive"),
    ({"kind": "gift"}, "operations_kind"), ({"outcome": "maybe"}, "operations_outcome"),
    ({"debit": "cash", "credit": "revenue"}, "operations_ledger_accounts"), ({"balance": 5}, "operations_balance"),
])
def test_an_operation_that_makes_no_sense_is_refused_by_the_database(billing_db, wrong, constraint):
    user_id = uuid4()
    good = {"kind": "deposit", "user_id": user_id, "amount": 1, "debit": "cash", "credit": str(user_id),
            "outcome": "insufficient_funds", "balance": None}
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
    with billing_db.begin() as session:
        operation, _ = billing_store.claim_movement(session, None, Kind.DEPOSIT, user_id, 100)
        billing_store.settle(session, operation)
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.INSUFFICIENT_FUNDS
    assert balance(billing_db, user_id) == 110


def test_a_payment_for_no_account_is_refused_for_ever(billing_db: sessionmaker[Session]):
    user_id, operation_id = uuid4(), uuid4()
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.ACCOUNT_NOT_FOUND
    with billing_db.begin() as session:
        billing_store.open_account(session, user_id)
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.ACCOUNT_NOT_FOUND


def test_an_operation_id_belongs_to_one_payment(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 100), uuid4()
    pay(billing_db, operation_id, user_id, 30)
    for other_user, other_amount in ((user_id, 31), (new_account(billing_db, 100), 30)):
        with pytest.raises(OperationMismatch):
            pay(billing_db, operation_id, other_user, other_amount)
    assert balance(billing_db, user_id) == 70


def test_payments_from_one_account_at_once_never_overdraw_it(billing_db: sessionmaker[Session]):
    user_id = new_account(billing_db, 100)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: pay(billing_db, uuid4(), user_id, 7), range(40)))
    assert outcomes.count(Outcome.ACCEPTED) == 14
    assert balance(billing_db, user_id) == 2


def test_a_crash_before_the_commit_moves_nothing(billing_db: sessionmaker[Session]):
    user_id, operation_id = new_account(billing_db, 100), uuid4()
    session = billing_db()
    operation, _ = billing_store.claim_payment(session, operation_id, user_id, 30)
    billing_store.settle(session, operation)
    session.rollback()
    assert balance(billing_db, user_id) == 100
    assert pay(billing_db, operation_id, user_id, 30) == Outcome.ACCEPTED


def test_an_order_ends_once(orders_db: sessionmaker[Session]):
    with orders_db.begin() as session:
        order, _ = orders_store.claim_order(session, None, NewOrder(user_id=uuid4(), price=5), 60)

    def finish(_: int) -> bool:
        with orders_db.begin() as session:
            return orders_store.finish(session, order.id, Status.PAID, None) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(finish, range(16))) == 1


def test_a_key_stores_one_order_and_knows_its_values(orders_db: sessionmaker[Session]):
    key, new = str(uuid4()), NewOrder(user_id=uuid4(), price=5)

    def place(_: int) -> tuple[UUID, bool]:
        with orders_db.begin() as session:
            order, is_new = orders_store.claim_order(session, key, new, 60)
            return order.id, is_new

    with ThreadPoolExecutor(8) as pool:
        placed = list(pool.map(place, range(16)))
    assert len({order_id for order_id, _ in placed}) == 1
    assert sum(is_new for _, is_new in placed) == 1
    with pytest.raises(KeyReused), orders_db.begin() as session:
        orders_store.claim_order(session, key, NewOrder(user_id=new.user_id, price=6), 60)


def test_two_recoveries_never_take_the_same_order(orders_db: sessionmaker[Session]):
    with orders_db.begin() as session:
        for _ in range(20):
            orders_store.claim_order(session, None, NewOrder(user_id=uuid4(), price=5), -1)

    def take(_: int) -> list[UUID]:
        with orders_db.begin() as session:
            return [order.id for order in orders_store.claim_pending(session, 5, 60)]

    with ThreadPoolExecutor(8) as pool:
        taken = [order_id for ids in pool.map(take, range(8)) for order_id in ids]
    assert len(taken) == len(set(taken)) >= 20


def add_events(db: sessionmaker[Session], count: int) -> None:
    with db.begin() as session:
        session.execute(text("delete from outbox"))
        session.execute(insert(orders.Outbox), [
            {"event_id": uuid4(), "type": "order_paid", "body": {"number": number}} for number in range(count)])


def test_two_relays_never_claim_the_same_event(orders_db: sessionmaker[Session]):
    add_events(orders_db, 40)

    def take(_: int) -> list[int]:
        with orders_db.begin() as session:
            return [row.id for row in claim(session, orders.Outbox, 10, 60)]

    with ThreadPoolExecutor(8) as pool:
        taken = [id_ for ids in pool.map(take, range(8)) for id_ in ids]
    assert len(taken) == len(set(taken)) == 40


def test_a_claim_that_is_not_finished_is_free_again_when_its_lease_is_over(orders_db: sessionmaker[Session]):
    add_events(orders_db, 3)
    with orders_db.begin() as session:
        first = claim(session, orders.Outbox, 10, 60)
        assert [row.body["number"] for row in first] == [0, 1, 2]
        assert claim(session, orders.Outbox, 10, 60) == []
    with orders_db.begin() as session:
        session.execute(text("update outbox set claimed_until = claimed_until - interval '61 s'"))
    with orders_db.begin() as session:
        assert claim(session, orders.Outbox, 10, 60) == first


def test_a_lease_is_counted_by_the_clock_of_the_database(orders_db: sessionmaker[Session]):
    add_events(orders_db, 1)
    with orders_db.begin() as session:
        claim(session, orders.Outbox, 10, 60)
        left = session.scalars(select(orders.Outbox.claimed_until - func.now())).one()
    assert left == timedelta(seconds=60)
