"""The invariants of the design, asked of all databases at once; and what was promised to clients."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, text

from services.kit.outbox.table import OutboxRow
from services.local.net import wait_for
from services.local.stack import Stack
from services.shop import services_with
from tests.client import Api
from tests.load import Sent

QUIET_S = 60


@contextmanager
def database(stack: Stack, service: str) -> Iterator[Connection]:
    """A connection to the database of a service; what is done on it is committed at the end."""
    engine = create_engine(stack.database_url(service))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(stack: Stack, service: str, query: str, **values: Any) -> list[Any]:
    with database(stack, service) as connection:
        return list(connection.execute(text(query), values))


def one(stack: Stack, service: str, query: str, **values: Any) -> Any:
    [[value]] = rows(stack, service, query, **values)
    return value


def add_pending_users(stack: Stack, count: int, retry_at: str) -> list[str]:
    """Users that a crash has left without their accounts, and the events that tell of them; their ids."""
    return [
        str(id_)
        for (id_,) in rows(
            stack,
            "users",
            """
        with pending as (insert into users (id, name, email, status, retry_at)
                         select gen_random_uuid(), 'Ada', gen_random_uuid() || '@example.com', 'pending', :retry_at
                         from generate_series(1, :count) returning id, email),
        facts as (select gen_random_uuid() as event_id, id, email from pending),
        told as (insert into outbox (event_id, type, body)
                 select event_id, 'user_registered',
                        jsonb_build_object('event_id', event_id, 'user_id', id, 'email', email) from facts)
        select id from facts""",
            count=count,
            retry_at=retry_at,
        )
    ]


def is_quiet(stack: Stack) -> bool:
    """Whether nothing is pending, and every event that was published has been handled."""
    pending = one(stack, "orders", "select count(*) from orders where status = 'pending'")
    pending += one(stack, "users", "select count(*) from users where status = 'pending'")
    waiting = sum(
        one(stack, service, "select count(*) from outbox where published_at is null")
        for service in services_with(OutboxRow)
    )
    letters = one(stack, "notifications", "select count(*) from letters where event_id is not null")
    ended = one(stack, "orders", "select count(*) from orders where status = 'paid' or reason = 'insufficient_funds'")
    contacts = one(stack, "notifications", "select count(*) from contacts")
    users = one(stack, "users", "select count(*) from users")
    return pending == waiting == 0 and letters >= ended and contacts >= users


def wait_until_quiet(stack: Stack) -> None:
    wait_for(lambda: is_quiet(stack), QUIET_S, "the system to become quiet")


def violations(stack: Stack) -> list[str]:
    """Every way in which the data of a quiet system breaks invariants 1 to 3."""
    found = [
        f"account {user_id}: balance {balance}, but its operations sum to {total}"
        for user_id, balance, total in rows(
            stack,
            "billing",
            """
            select a.user_id, a.balance,
                   coalesce(sum(o.amount * case when o.credit = a.user_id::text then 1 else -1 end), 0)
            from accounts a left join operations o on o.user_id = a.user_id and o.outcome = 'accepted'
            group by a.user_id, a.balance""",
        )
        if balance != total or balance < 0
    ]
    found += [
        f"operation {id_}: undecided"
        for (id_,) in rows(stack, "billing", "select id from operations where outcome is null")
    ]
    payments = {
        id_: (user_id, amount)
        for id_, user_id, amount in rows(
            stack,
            "billing",
            """
        select id, user_id, amount from operations where kind = 'payment' and outcome = 'accepted'""",
        )
    }
    orders = {
        id_: (status, reason, user_id, price)
        for id_, status, reason, user_id, price in rows(
            stack, "orders", "select id, status, reason, user_id, price from orders"
        )
    }
    for id_, (status, _reason, user_id, price) in orders.items():
        if (status == "paid") != (payments.get(id_) == (user_id, price)):
            found.append(f"order {id_}: {status}, its payment is {payments.get(id_)}")
    found += [f"payment {id_}: of no order" for id_ in payments.keys() - orders.keys()]
    expected = sorted(
        (str(id_), "order_paid" if status == "paid" else "order_rejected")
        for id_, (status, reason, _, _) in orders.items()
        if status == "paid" or reason == "insufficient_funds"
    )
    letters = sorted(
        (str(order_id), kind)
        for order_id, kind in rows(
            stack, "notifications", "select order_id, kind from letters where order_id is not null"
        )
    )
    if letters != expected:
        found += [f"letter {letter}: too many" for letter in letters if letter not in expected]
        found += [f"letter {letter}: missing" for letter in expected if letter not in letters]
        found += ["letters: doubled"] * (len(letters) != len(set(letters)))
    return found


def broken_promises(stack: Stack, sent: Iterable[Sent]) -> list[str]:
    """Every way in which a quiet system does not hold what it has answered, and what it did twice for one request."""
    users = {str(id_) for (id_,) in rows(stack, "users", "select id from users")}
    orders = {
        str(row.id): row for row in rows(stack, "orders", "select id, user_id, price, status, reason from orders")
    }
    effects = Counter(("order", str(row.user_id), row.price) for row in orders.values())
    effects.update(
        (row.kind.replace("withdrawal", "withdraw"), str(row.user_id), row.amount)
        for row in rows(stack, "billing", "select kind, user_id, amount from operations where outcome = 'accepted'")
    )
    found = []
    with Api(stack.url) as api:
        for one in sent:
            count = effects[one.kind, one.user_id, one.amount]
            if one.key is None and count > 1:
                found.append(f"{one}: was done {count} times")
            if one.status in (200, 201, 202) and count == 0:
                found.append(f"{one}: was not done")
            if one.kind == "order" and one.status == 404 and one.user_id in users:
                found.append(f"{one}: the user exists")
            if one.id is not None:
                found += _broken_by(one, orders.get(one.id), users)
            if one.id is not None and one.status == 202:
                found += _hidden(api, one)
    return found


def _broken_by(sent: Sent, order: Any, users: set[str]) -> Iterator[str]:
    if order is None:
        yield f"{sent}: there is no such order"
    elif (str(order.user_id), order.price) != (sent.user_id, sent.amount):
        yield f"{sent}: the order is another one, {order}"
    elif order.status != "paid" and order.reason != "insufficient_funds":
        if order.reason != "account_not_found" or sent.user_id in users:
            yield f"{sent}: ended as {order.status}, {order.reason}"


def _hidden(api: Api, sent: Sent) -> Iterator[str]:
    """What a client cannot see of an order that was accepted with 202."""
    answer = api.get(f"/orders/{sent.id}")
    if answer.status_code != 200 or answer.json()["status"] == "pending":
        yield f"{sent}: the order is answered {answer.status_code} {answer.text}"
    if sent.id not in [order["id"] for order in api.items(f"/orders?user_id={sent.user_id}")]:
        yield f"{sent}: not in the list of its user"
