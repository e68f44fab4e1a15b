"""What the services ask of full tables, PostgreSQL finds by an index, with the settings of their connections."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from services.billing import store as billing
from services.billing.domain import OperationKind
from services.billing.store import Movement, OperationsQuery
from services.kit.db import commits
from services.kit.db.commits import BEGINNING
from services.kit.db.session import BY_INDEX, as_options
from services.kit.inbox import table as inbox
from services.kit.inbox.table import DueMessage, FailedMessage
from services.kit.outbox import statements as outbox
from services.kit.recovery import Trouble
from services.kit.web.pages import PageQuery
from services.local.postgres import Postgres
from services.notifications import store as notifications
from services.notifications.domain import LetterKind
from services.notifications.service import Notifications
from services.notifications.store import LettersQuery, Wanted
from services.ops import audit, dead_letters
from services.ops.migrate import upgrade
from services.orders import store as orders
from services.orders.broker import OrdersService
from services.orders.domain import OrderStatus
from services.orders.store import OrderRequest, OrdersQuery
from services.shop import SERVICES
from services.users import store as users
from services.users.broker import UsersService
from services.users.domain import UserStatus, UserView
from services.users.store import UsersQuery

ROWS = 50_000
FROM_NUMBERS = f"from generate_series(1, {ROWS}) as n"
NTH = "lpad(to_hex(n), 32, '0')::uuid"
ONE_OF_100 = "lpad(to_hex(n % 100), 32, '0')::uuid"
MOMENT = "now() - n * interval '1 second'"
USER = UUID(int=5)

OUTBOX = f"""insert into outbox (event_id, type, body, published_at)
             select {NTH}, 'order_paid', '{{}}', now() {FROM_NUMBERS}"""
FILL = {
    "users": [
        OUTBOX,
        f"""
        insert into users (id, name, email, status, retry_at, created_at)
        select {NTH}, 'A user', n || '@example.com', 'active', now(), {MOMENT} {FROM_NUMBERS}""",
    ],
    "billing": [
        f"insert into accounts (user_id, balance) select {NTH}, 1000000 {FROM_NUMBERS}",
        f"""
        insert into operations (id, kind, user_id, amount, debit, credit, outcome, balance, idempotency_key, created_at)
        select {NTH}, 'payment', {ONE_OF_100}, 1, {ONE_OF_100}::text, 'revenue', 'accepted', 1, 'key-' || n, {MOMENT}
        {FROM_NUMBERS}""",
    ],
    "orders": [
        OUTBOX,
        f"""
        insert into orders (id, user_id, price, status, idempotency_key, retry_at, created_at)
        select {NTH}, {ONE_OF_100}, 1, 'paid', 'key-' || n, now(), {MOMENT} {FROM_NUMBERS}""",
    ],
    "notifications": [
        f"insert into contacts (user_id, email) select {NTH}, n || '@example.com' {FROM_NUMBERS}",
        f"""
        insert into letters (id, event_id, order_id, user_id, kind, subject, body, created_at)
        select {NTH}, {NTH}, {NTH}, {ONE_OF_100}, 'order_paid', 'Paid', 'Paid', {MOMENT} {FROM_NUMBERS}""",
        f"""
        insert into inbox (handler, key, body, headers, attempts, reason, next_attempt_at)
        select 'on_order_paid', n, '', '{{}}', 1, 'a test', case when n % 2 = 0 then now() + n * interval '1 second' end
        {FROM_NUMBERS}""",
    ],
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """The four databases with so many rows in each table, all settled."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(SERVICES)
        engines = {}
        for service in SERVICES:
            upgrade(service, server.url(service))
            # plans for any values, as they are kept after a while
            engines[service] = create_engine(
                server.url(service),
                connect_args={"options": as_options(BY_INDEX | {"plan_cache_mode": "force_generic_plan"})},
            )
            with engines[service].execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                for statement in FILL[service]:
                    connection.execute(text(statement))
                connection.execute(text("vacuum analyze"))
        yield engines
        for engine in engines.values():
            engine.dispose()


@contextmanager
def plans_of(engine: Engine) -> Iterator[list[str]]:
    """The plans of all statements that are executed meanwhile."""
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.startswith("prepare"):
            cursor.execute(f"explain (costs off) {statement}", parameters or None)
            plans.append("\n".join(line for (line,) in cursor.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def end(session: Session) -> None:
    [stored] = orders.store_orders(session.connection(), [request(None, USER)], 60)
    orders.end_orders(session.connection(), [stored.order.model_copy(update={"status": OrderStatus.PAID})], {}, 60)


def request(key: str | None, user_id: UUID) -> OrderRequest:
    return OrderRequest(uuid4(), uuid4(), key, user_id, 1)


def lease(service: Any, session: Session) -> None:
    service.recovery.lease.run(session.connection(), most=50, pause=timedelta(seconds=15))


def count(service: Any, session: Session) -> None:
    service.recovery.count.run(session.connection(), stuck_after=timedelta(seconds=60))


def note(service: Any, session: Session) -> None:
    service.recovery.note.run(session.connection(), troubles=[Trouble(USER, "x")], pause=timedelta(seconds=15))


def page(query: type[PageQuery], later: bool, **filters: Any) -> Any:
    """A query for a first page or a later one."""
    half_way = datetime.now(UTC) - timedelta(seconds=ROWS / 2)
    return query(cursor=(half_way, USER) if later else None, **filters)


OLD = Movement.of(OperationKind.PAYMENT, USER, 1, USER)
NEW, NEWER = (OLD._replace(id=uuid4()) for _ in range(2))
WINDOW = {"since": datetime.now(UTC) - timedelta(minutes=10), "until": datetime.now(UTC) - timedelta(minutes=5)}
ADA = UserView(id=USER, name="Ada", email="ada@example.com", status=UserStatus.PENDING, created_at=datetime.now(UTC))
SEVENTH = request("key-7", UUID(int=7))
LETTER = notifications.NewLetter(uuid4(), uuid4(), uuid4(), USER, LetterKind.ORDER_PAID, "Yes", "Yes")
MESSAGE = notifications.MessageRequest(uuid4(), "key-7", USER, "ada@example.com", "Hello", "")
CONTACT = notifications.NewContact(USER, "ada@example.com")
FAILED = FailedMessage("new", b"", None, None, {}, 1, "a test")
DUE = DueMessage(7, "on_order_paid", b"", None, None, {}, 1)

#: Service, what it asks, and the indexes that should answer it.
ASKED: dict[str, tuple[str, Callable[[Session], object], set[str]]] = {
    "recovery of users": ("users", lambda s: lease(UsersService, s), {"users_pending"}),
    "pending users": ("users", lambda s: count(UsersService, s), {"users_pending"}),
    "accounts that are open": ("users", lambda s: users.activate(s.connection(), [ADA]), {"users_pkey"}),
    "users in trouble": ("users", lambda s: note(UsersService, s), {"users_pkey"}),
    "who is a user": ("users", lambda s: users.known(s.connection(), [USER]), {"users_pkey"}),
    "the user with an address": (
        "users",
        lambda s: users.newest(s, page(UsersQuery, True, email="7@Example.com")),
        {"users_email"},
    ),
    "a user": ("users", lambda s: users.get(s, USER), {"users_pkey"}),
    "payments": ("billing", lambda s: billing.move(s.connection(), [NEW], wait=False), {"accounts_pkey"}),
    "payments that wait": ("billing", lambda s: billing.move(s.connection(), [NEWER], wait=True), {"accounts_pkey"}),
    "a refusal": ("billing", lambda s: billing.refuse(s.connection(), OLD), {"operations_pkey"}),
    "accounts to open": ("billing", lambda s: billing.open_accounts(s.connection(), [USER]), set()),
    "payments made before": ("billing", lambda s: billing.find_decided(s.connection(), [OLD]), {"operations_pkey"}),
    "a deposit under a key": (
        "billing",
        lambda s: billing.find_decided(s.connection(), [Movement.of(OperationKind.DEPOSIT, USER, 1, key="key-7")]),
        {"operations_pkey", "operations_key"},
    ),
    "an operation": ("billing", lambda s: billing.get_operation(s, USER, USER), {"operations_pkey"}),
    "an account": ("billing", lambda s: billing.get_account(s, USER), {"accounts_pkey"}),
    "an order under a key": (
        "orders",
        lambda s: orders.store_orders(s.connection(), [SEVENTH], 60),
        {"orders_pkey", "orders_key"},
    ),
    "the end of orders": ("orders", end, {"orders_pkey"}),
    "a promise": ("orders", lambda s: orders.promise(s.connection(), [USER]), {"orders_pkey"}),
    "orders in trouble": ("orders", lambda s: note(OrdersService, s), {"orders_pkey"}),
    "an order": ("orders", lambda s: orders.get(s, USER), {"orders_pkey"}),
    "recovery of orders": ("orders", lambda s: lease(OrdersService, s), {"orders_pending"}),
    "pending orders": ("orders", lambda s: count(OrdersService, s), {"orders_pending"}),
    "events to relay": ("orders", lambda s: outbox.lease_batch(s.connection(), 200, 15), {"outbox_waiting"}),
    "waiting events": ("orders", lambda s: outbox.count_waiting(s.connection()), {"outbox_waiting"}),
    "events to mark": (
        "orders",
        lambda s: outbox.mark_published(s.connection(), [str(USER)], "amqp"),
        {"outbox_event_id_key"},
    ),
    "events to release": (
        "orders",
        lambda s: outbox.release(s.connection(), [str(USER)], 15),
        {"outbox_event_id_key"},
    ),
    "old events": ("orders", lambda s: outbox.remove_old(s.connection(), 1000, 60, 7), {"outbox_pkey"}),
    "a message to a user under a key": (
        "notifications",
        lambda s: notifications.CLAIM.find(s.connection(), [MESSAGE]),
        {"letters_pkey", "letters_key"},
    ),
    "a message to an address under a key": (
        "notifications",
        lambda s: notifications.CLAIM.find(s.connection(), [MESSAGE._replace(user_id=None)]),
        {"letters_pkey", "letters_key"},
    ),
    "letters to store": (
        "notifications",
        lambda s: notifications.add_letters(s.connection(), [LETTER]),
        set(),
    ),
    "addresses to store": ("notifications", lambda s: notifications.add_contacts(s.connection(), [CONTACT]), set()),
    "a letter": ("notifications", lambda s: notifications.get(s, USER), {"letters_pkey", "contacts_pkey"}),
    "the letter of an order": (
        "notifications",
        lambda s: notifications.newest(s, page(LettersQuery, False, order_id=USER)),
        {"letters_order_id_key"},
    ),
    "the letter of an order to a user": (
        "notifications",
        lambda s: notifications.newest(s, page(LettersQuery, True, order_id=USER, user_id=USER)),
        {"letters_order_id_key"},
    ),
    "letters of a user that somebody follows": (
        "notifications",
        lambda s: notifications.committed(s.connection(), [Wanted.after(BEGINNING, USER, 50)]),
        {"letters_committed_of_user", "contacts_pkey"},
    ),
    "letters that somebody follows": (
        "notifications",
        lambda s: notifications.committed(s.connection(), [Wanted.after(BEGINNING, None, 50)]),
        {"letters_committed on", "contacts_pkey"},
    ),
    "news for those who follow": (
        "notifications",
        lambda s: Notifications.feed.find.run(s.connection(), transaction=1, id=USER),
        {"letters_committed on"},
    ),
    "letters of another server": (
        "notifications",
        lambda s: s.execute(text(commits.FORGET.format(table="letters"))),
        {"letters_committed on"},
    ),
    "an event that failed": (
        "notifications",
        lambda s: inbox.keep(s.connection(), "on_order_paid", FAILED, 1),
        set(),
    ),
    "an event to try again": (
        "notifications",
        lambda s: inbox.lease(s.connection(), 15),
        {"inbox_due", "inbox_pkey"},
    ),
    "an event that is handled": ("notifications", lambda s: inbox.remove(s.connection(), DUE), {"inbox_pkey"}),
    "an event that failed again": (
        "notifications",
        lambda s: inbox.fail(s.connection(), DUE, 2, "a test", None),
        {"inbox_pkey"},
    ),
    "events in the inbox": ("notifications", lambda s: inbox.count(s.connection()), {"inbox_due", "inbox_dead"}),
    "dead letters": (
        "notifications",
        lambda s: s.execute(
            text(dead_letters.STATEMENTS["look"]), {"after": 7, "newest": ROWS, "all": True, "ids": []}
        ),
        {"inbox_dead"},
    ),
    "orders to audit": (
        "orders",
        lambda s: s.execute(text(audit.ORDERS), {**WINDOW, "moment": WINDOW["since"], "id": str(USER)}),
        {"orders_newest"},
    ),
    "audited orders": ("orders", lambda s: s.execute(text(audit.ORDERS_BY_ID), {"ids": [USER]}), {"orders_pkey"}),
    "payments of orders": (
        "billing",
        lambda s: s.execute(text(audit.PAYMENTS_BY_ID), {"ids": [USER]}),
        {"operations_pkey"},
    ),
    "letters of orders": (
        "notifications",
        lambda s: s.execute(text(audit.LETTERS_BY_ORDER), {"ids": [USER]}),
        {"letters_order_id_key"},
    ),
    "letters to audit": ("notifications", lambda s: s.execute(text(audit.LETTERS), WINDOW), {"letters_newest"}),
}

STATUS = OrderStatus.PAID  # that of all orders here: PostgreSQL expects no other one, and may be wrong at any time
#: Service, what returns a page of a list, what is asked of it, and the index by which it is read.
LISTS: dict[str, tuple[str, Callable[[Session, Any], object], type[PageQuery], dict[str, Any], str]] = {
    "users": ("users", users.newest, UsersQuery, {}, "users_newest"),
    "operations": (
        "billing",
        lambda s, query: billing.statement(s, USER, query),
        OperationsQuery,
        {},
        "operations_statement",
    ),
    "orders": ("orders", orders.newest, OrdersQuery, {}, "orders_shown"),
    "orders of a user": ("orders", orders.newest, OrdersQuery, {"user_id": USER}, "orders_shown_of_user"),
    "orders of a status": ("orders", orders.newest, OrdersQuery, {"status": STATUS}, "orders_shown_of_status"),
    "pending orders": (
        "orders",
        orders.newest,
        OrdersQuery,
        {"status": OrderStatus.PENDING},
        "orders_shown_of_status",
    ),
    "orders of a user of a status": (
        "orders",
        orders.newest,
        OrdersQuery,
        {"user_id": USER, "status": STATUS},
        "orders_shown_of_user_of_status",
    ),
    "letters": ("notifications", notifications.newest, LettersQuery, {}, "letters_newest"),
    "letters to a user": (
        "notifications",
        notifications.newest,
        LettersQuery,
        {"user_id": USER},
        "letters_newest_of_user",
    ),
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("what", LISTS)
def test_a_list_reads_nothing_but_what_it_shows(full: dict[str, Engine], what: str, later: bool):
    service, ask, query, filters, index = LISTS[what]
    with Session(full[service]) as session, plans_of(full[service]) as plans:
        ask(session, page(query, later, **filters))
    [plan] = plans
    assert re.search(rf"Index Scan Backward using {index}\b", plan), plan
    assert not re.search("Filter|Sort|Seq Scan|Bitmap", plan), plan


@pytest.mark.parametrize("what", ASKED)
def test_it_is_found_by_an_index(full: dict[str, Engine], what: str):
    service, ask, indexes = ASKED[what]
    with Session(full[service]) as session, plans_of(full[service]) as plans:
        ask(session)
        session.rollback()
    together = "\n\n".join(plans)
    assert plans and "Seq Scan" not in together, together
    assert {index for index in indexes if index not in together} == set(), together


def test_a_query_without_an_index_would_be_seen(full: dict[str, Engine]):
    with Session(full["orders"]) as session, plans_of(full["orders"]) as plans:
        session.execute(text("select count(*) from orders where price = 7"))
    assert "Seq Scan" in plans[0]
