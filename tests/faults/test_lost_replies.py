"""A commit takes effect and nobody hears of it: whatever clients are told, nothing is done twice."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import pytest

from services.local.net import wait_for
from tests.books import broken_promises, one, rows, violations, wait_until_quiet
from tests.client import Api, new_email
from tests.commands import audit
from tests.faults.proxied import ProxiedStack
from tests.faults.proxy import Fault, Mode, Proxy, Rule
from tests.load import Load

LOST_S = 90
ENDED_S = 30
TERMINATE = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = :name"


@pytest.fixture
def api(proxied: ProxiedStack) -> Iterator[Api]:
    with Api(proxied.url) as client:
        yield client


def test_a_round_of_orders_whose_reply_is_lost_is_not_done_again(proxied: ProxiedStack, api: Api):
    first, user = api.new_user(balance=1000)["id"], api.new_user(balance=1000)["id"]
    database = proxied.databases["orders"]
    slow = database.add(Fault.DELAY, b"execute claim_orders", delay_s=0.5)
    with ThreadPoolExecutor(4) as pool:
        before = pool.submit(api.order, first, 1, "the round before " + first)
        wait_for(lambda: slow.done, 5, "a round that the others wait for")
        lost = database.add(Fault.LOSE_REPLY, b"execute claim_orders")
        answers = [one.result() for one in [pool.submit(api.order, user, price) for price in (1, 2, 3)]]
    assert before.result().status_code == 201 and lost.done == 1
    assert {answer.status_code for answer in answers} <= {201, 202, 503}
    assert all(answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503)
    wait_until_quiet(proxied)
    assert sorted(
        price for (price,) in rows(proxied, "orders", "select price from orders where user_id = :user", user=user)
    ) == [1, 2, 3]
    assert api.balance(user) == 1000 - 6
    assert len(api.letters(user, 3)) == 3
    assert violations(proxied) == []


#: Statements and messages whose reply is lost: where, which, out of how many one.
REPLIES = [
    ("orders", b"execute claim_orders"),
    ("orders", b"execute end_orders"),
    ("billing", b"execute move"),
    ("notifications", b"execute add_letters"),
    ("users", b"COMMIT"),
]
CONFIRMS = [
    ("orders", b"billing.pay_all"),
    ("users", b"billing.open_account"),
    ("billing", b"nameko-rpc"),
    ("orders", b"order_paid"),
    ("users", b"user_registered"),
]


@contextmanager
def losing(proxied: ProxiedStack) -> Iterator[dict[tuple[str, bytes], Rule]]:
    """One reply in ten is lost of each kind, five times."""
    asked = {
        (service, match): proxied.databases[service].add(Fault.LOSE_REPLY, match, count=5, probability=0.1)
        for service, match in REPLIES
    }
    asked |= {
        (service, match): proxied.brokers[service].add(Fault.LOSE_REPLY, match, count=5, probability=0.1)
        for service, match in CONFIRMS
    }
    try:
        yield asked
    finally:
        for proxy in (*proxied.databases.values(), *proxied.brokers.values()):
            proxy.rules.clear()


def test_one_reply_in_ten_is_lost_and_nothing_is_done_twice(proxied: ProxiedStack):
    with Load(proxied.url, clients=3, keyless=6) as load, losing(proxied) as rules:
        wait_for(
            lambda: all(rule.done >= 2 for rule in rules.values()), LOST_S, f"replies to be lost of each kind, {rules}"
        )
    wait_until_quiet(proxied)
    assert load.failures == []
    assert broken_promises(proxied, load.sent) == []
    assert violations(proxied) == []
    audit(proxied)


@pytest.mark.parametrize("service", ["orders", "billing", "users", "notifications"])
def test_sessions_that_are_ended_by_the_server_are_an_outage(proxied: ProxiedStack, service: str):
    with Load(proxied.url, clients=3, keyless=3, pause_s=0.03) as load:
        wait_for(lambda: load.counted["paid"], 30, "the load to run")
        for _ in range(10):
            one(proxied, service, TERMINATE + " and pid <> pg_backend_pid()", name=service)
            time.sleep(0.2)
    wait_until_quiet(proxied)
    assert load.failures == []
    assert broken_promises(proxied, load.sent) == []
    assert violations(proxied) == []


def test_an_order_of_a_user_whose_account_is_not_open_yet_ends_with_a_letter(proxied: ProxiedStack, api: Api):
    with away(proxied.databases["billing"]):
        created = [api.post("/users", {"name": "Ada", "email": new_email()}).json() for _ in range(3)]
        assert {user["status"] for user in created} == {"pending"}
        users = [user["id"] for user in created]
        orders = {user: api.order(user, 5, f"at once {user}") for user in users}
        assert {answer.status_code for answer in orders.values()} == {202}
        # the users are settled later than their orders are asked for again
        rows(
            proxied,
            "users",
            "update users set retry_at = now() + interval '4 s' where id = any(:ids) returning 1",
            ids=[UUID(user) for user in users],
        )
        rows(proxied, "orders", "update orders set retry_at = now() where status = 'pending' returning 1")
    for user, answer in orders.items():
        location = answer.headers["Location"]
        order = wait_for(lambda at=location: ended(api, at), ENDED_S, f"the end of {location}")
        assert (order["status"], order["reason"]) == ("rejected", "insufficient_funds")
        assert [one["id"] for one in api.items(f"/orders?user_id={user}")] == [order["id"]]
        assert [one["order_id"] for one in api.letters(user, 1)] == [order["id"]]
        again = api.order(user, 5, f"at once {user}")
        assert (again.status_code, again.json()) == (201, order)
    wait_until_quiet(proxied)
    assert violations(proxied) == []


@contextmanager
def away(proxy: Proxy) -> Iterator[None]:
    """Nothing listens behind the proxy meanwhile."""
    proxy.mode = Mode.REFUSE
    proxy.cut()
    try:
        yield
    finally:
        proxy.mode = Mode.PASS


def ended(api: Api, path: str) -> dict | None:
    order: dict = api.get(path).json()
    return None if order["status"] == "pending" else order
