"""Who waits for whom in the databases: none for ever, and nobody for what somebody else has taken."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.event import listen
from sqlalchemy.orm import Session

from services.billing import store as billing
from services.billing.domain import OperationKind
from services.billing.store import Movement
from services.contracts import Outcome, UserRegistered
from services.kit.db.database import Autocommit, classify
from services.kit.db.session import BY_INDEX, as_options
from services.kit.inbox import table as inbox
from services.kit.inbox.table import FailedMessage
from services.kit.outbox import statements as outbox
from services.local.postgres import Postgres
from services.notifications import store as notifications
from services.notifications.domain import LetterKind
from services.ops.dead_letters import DeadLetters
from services.ops.migrate import upgrade
from services.orders import store as orders
from services.orders.broker import OrdersService
from services.orders.domain import OrderStatus, OrderView, event_for
from services.shop import SERVICES
from services.users import store as users
from services.users.broker import UsersService

THREADS = 16
LOCK_S = 5


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(SERVICES)
        for service in SERVICES:
            upgrade(service, server.url(service))
        options = f"{as_options(BY_INDEX)} -c lock_timeout={LOCK_S}s"
        engines = {
            service: create_engine(server.url(service), pool_size=THREADS, connect_args={"options": options})
            for service in SERVICES
        }
        for engine in engines.values():
            listen(engine, "handle_error", classify)
        yield engines
        for engine in engines.values():
            engine.dispose()


def at_once(engine: Engine, work: Callable[[Any, Sequence[UUID]], object], ids: Sequence[UUID], times: int) -> None:
    """Do `work` with `ids`, each time in another order, many at once."""

    def once(_: int) -> None:
        with Autocommit(engine) as connection:
            work(connection, random.sample(ids, len(ids)))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(once, range(times)))


def test_payments_that_wait_for_accounts_never_wait_for_each_other(engines: dict[str, Engine]):
    """On a table that is large enough: the planner reads a small one from its beginning to its end."""
    with Autocommit(engines["billing"]) as connection:
        connection.execute(
            text("""insert into accounts (user_id, balance)
                                   select gen_random_uuid(), 1000000 from generate_series(1, 50000)""")
        )
        connection.execute(text("analyze accounts"))
        accounts = connection.execute(text("select user_id from accounts limit 40")).scalars().all()

    def pay(connection: Any, ids: Sequence[UUID]) -> None:
        movements = [Movement.of(OperationKind.PAYMENT, id_, 1) for id_ in ids[:20]]
        billing.MOVE_WAITING.run(connection, movements=movements)

    at_once(engines["billing"], pay, accounts, 200)


def test_a_payment_that_somebody_else_is_carrying_out_is_busy(engines: dict[str, Engine]):
    with Autocommit(engines["billing"]) as connection, engines["billing"].connect() as other:
        user_id = uuid4()
        connection.execute(text("insert into accounts values (:id, 10)"), {"id": user_id})
        payments = [Movement.of(OperationKind.PAYMENT, user_id, 1) for _ in range(2)]
        connection.exec_driver_sql("set lock_timeout = 200")
        other.execute(
            text("""insert into operations (id, kind, user_id, amount, debit, credit)
                              values (:id, 'payment', :user_id, 1, cast(:user_id as uuid), 'revenue')"""),
            {"id": payments[0].id, "user_id": user_id},
        )
        assert [one.outcome for one in billing.move(connection, payments, wait=False)] == [Outcome.BUSY] * 2
        other.rollback()
        assert [one.outcome for one in billing.move(connection, payments, wait=False)] == [Outcome.ACCEPTED] * 2
        connection.exec_driver_sql(f"set lock_timeout = '{LOCK_S}s'")


def test_what_was_decided_before_is_found_while_its_account_is_locked(engines: dict[str, Engine]):
    with Autocommit(engines["billing"]) as connection, engines["billing"].connect() as other:
        user_id = uuid4()
        connection.execute(text("insert into accounts values (:id, 10)"), {"id": user_id})
        first = Movement.of(OperationKind.DEPOSIT, user_id, 5, key=str(user_id))
        assert [one.outcome for one in billing.move(connection, [first], wait=True)] == [Outcome.ACCEPTED]
        other.execute(text("select from accounts where user_id = :id for update"), {"id": user_id})
        connection.exec_driver_sql("set lock_timeout = 200")
        again, new = first._replace(id=uuid4()), Movement.of(OperationKind.DEPOSIT, user_id, 1)
        found, busy = billing.move(connection, [again, new], wait=True)
        assert (found.outcome, found.is_new, found.operation_id) == (Outcome.ACCEPTED, False, first.id)
        assert busy.outcome == Outcome.BUSY
        other.rollback()
        connection.exec_driver_sql(f"set lock_timeout = '{LOCK_S}s'")


def store_orders(connection: Any, keys: Sequence[UUID]) -> None:
    orders.store_orders(connection, [orders.OrderRequest(uuid4(), uuid4(), str(key), key, 1) for key in keys], 60)


def add_letters(connection: Any, events: Sequence[UUID]) -> None:
    letters = [notifications.NewLetter(id_, id_, id_, id_, LetterKind.ORDER_PAID, "subject", "body") for id_ in events]
    notifications.add_letters(connection, letters)


#: Each row takes its time, so that two rounds are under way at once for sure.
SLOWLY = """
    create function slowly() returns trigger language plpgsql as 'begin perform pg_sleep(0.02); return new; end';
    create trigger slowly before insert on {table} for each row execute function slowly()"""


@pytest.mark.parametrize(
    "service, table, work", [("orders", "orders", store_orders), ("notifications", "letters", add_letters)]
)
def test_rounds_that_insert_the_same_never_wait_for_each_other(
    engines: dict[str, Engine], service: str, table: str, work: Callable[[Any, Any], None]
):
    with Autocommit(engines[service]) as connection:
        connection.execute(text(SLOWLY.format(table=table)))
        try:
            at_once(engines[service], work, [uuid4() for _ in range(10)], THREADS)
        finally:
            connection.execute(text(f"drop trigger slowly on {table}; drop function slowly"))


def lease(service: Any, connection: Connection) -> Sequence[Any]:
    return service.recovery.lease.run(connection, most=10, pause=timedelta(seconds=60)).all()


EVENTS = """insert into outbox (event_id, type, body, created_at)
            select gen_random_uuid(), 'order_paid', '{}', now() from generate_series(1, 2)"""
PENDING_USERS = """insert into users (id, name, email, status, retry_at)
                   select gen_random_uuid(), 'Ada', gen_random_uuid() || '@example.com', 'pending', '-infinity'
                   from generate_series(1, 2)"""
PENDING_ORDERS = """insert into orders (id, request_id, user_id, price, status, retry_at)
                    select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'pending', '-infinity'
                    from generate_series(1, 2)"""
FAILED = """insert into inbox (handler, key, body, headers, attempts, reason, next_attempt_at)
            select 'on_it', gen_random_uuid(), '', '{}', 1, 'it failed', '-infinity' from generate_series(1, 2)"""


@pytest.mark.parametrize(
    "service, table, two, claim",
    [
        ("users", "users", PENDING_USERS, lambda connection: lease(UsersService, connection)),
        ("orders", "orders", PENDING_ORDERS, lambda connection: lease(OrdersService, connection)),
        ("orders", "outbox", EVENTS, lambda connection: outbox.lease_batch(connection, 10, 60)),
        ("notifications", "inbox", FAILED, lambda connection: [one for one in [inbox.lease(connection, 60)] if one]),
    ],
)
def test_what_somebody_holds_is_passed_over(
    engines: dict[str, Engine], service: str, table: str, two: str, claim: Callable[[Any], Sequence[Any]]
):
    with Autocommit(engines[service]) as connection:
        connection.execute(text(f"delete from {table}"))
        connection.execute(text(two))
        with engines[service].begin() as other:
            other.execute(text(f"select id from {table} order by id limit 1 for update"))
            assert len(claim(connection)) == 1
        assert len(claim(connection)) == 1
        assert len(claim(connection)) == 0


def test_an_attempt_that_two_replicas_have_made_counts_once(engines: dict[str, Engine]):
    """The lease of the first was over: neither a third attempt is skipped, nor a dead letter brought back."""
    with Autocommit(engines["notifications"]) as connection:
        connection.execute(text("delete from inbox"))
        connection.execute(text(FAILED))
        first, second = inbox.lease(connection, 0), inbox.lease(connection, 0)
        assert first and second
        for _ in range(2):
            inbox.fail(connection, first, 2, "it failed", 60)
        inbox.fail(connection, second, 1, "it cannot be read", None)
        inbox.fail(connection, second, 2, "it failed", 60)
        left = connection.execute(text("select id, attempts, next_attempt_at is null as dead from inbox order by id"))
        assert [tuple(row) for row in left] == sorted([(first.id, 2, False), (second.id, 1, True)])


def test_an_event_that_fails_and_is_delivered_again_goes_on_with_its_attempts(engines: dict[str, Engine]):
    event = FailedMessage("an event", b"", None, None, {}, 1, "it failed")
    with Autocommit(engines["notifications"]) as connection:
        connection.execute(text("delete from inbox"))
        assert inbox.keep(connection, "on_it", event, 0)
        due = inbox.lease(connection, 60)
        assert due
        inbox.fail(connection, due, 2, "it failed again", 60)
        assert not inbox.keep(connection, "on_it", event, 0)
        assert connection.execute(text("select attempts, reason from inbox")).all() == [(2, "it failed again")]


def test_a_dead_letter_is_replayed_with_all_its_attempts(engines: dict[str, Engine]):
    with Autocommit(engines["notifications"]) as connection:
        connection.execute(text("delete from inbox"))
        connection.execute(text(FAILED))
        connection.execute(text("update inbox set attempts = 4, next_attempt_at = null"))
        letters = DeadLetters({name: one.url.render_as_string(hide_password=False) for name, one in engines.items()})
        assert len(list(letters.replay([]))) == 2 and list(letters.look([])) == []
        assert connection.execute(text("select attempts, next_attempt_at <= now() from inbox")).all() == [(0, True)] * 2
    for engine in letters.engines.values():
        engine.dispose()


def test_an_address_that_comes_again_is_no_news(engines: dict[str, Engine]):
    with Autocommit(engines["notifications"]) as connection:
        contact = notifications.NewContact(uuid4(), "ada@example.com")
        assert [notifications.add_contacts(connection, [contact]) for _ in range(2)] == [[True], [False]]


def test_an_order_that_somebody_holds_holds_up_no_other(engines: dict[str, Engine]):
    with Autocommit(engines["orders"]) as connection:
        store_orders(connection, [uuid4() for _ in range(2)])
        connection.execute(text(PENDING_ORDERS))
        pending = [OrderView.model_validate(row) for row in lease(OrdersService, connection)]
        ended = [order.model_copy(update={"status": OrderStatus.PAID}) for order in pending]
        with engines["orders"].begin() as other:
            other.execute(text("select id from orders where id = :id for update"), {"id": pending[0].id})
            events = {order.id: event_for(order) for order in ended}
            recorded = orders.end_orders(connection, ended, events, 60)
        written = [event for one in recorded for event in one.events]
        assert len(written) == len(pending) - 1
        assert [one.order.status for one in recorded] == [OrderStatus.PENDING] + [OrderStatus.PAID] * len(written)


def test_a_key_whose_request_is_refused_many_times_at_once_has_one_answer(engines: dict[str, Engine]):
    """Its refusal is in a table of its own, so the turns that are taken keep two from storing it."""

    def create(key: str | None) -> users.StoredUser:
        request = users.UserRequest(uuid4(), key, "Ada", "ada@example.com")
        event = UserRegistered(user_id=request.id, email=request.email)
        with Session(engines["users"]) as session, session.begin():
            return users.store_user(session, request, event, 60, 60)

    create(None)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(5):
            answers = list(pool.map(create, [str(uuid4())] * THREADS))
            assert [answer.user for answer in answers] == [None] * THREADS
            assert sum(answer.is_new for answer in answers) == 1
