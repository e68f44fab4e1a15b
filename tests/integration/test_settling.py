"""How orders are settled when their account is busy, or not there yet, or when there are very many of them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import database, one, rows, violations, wait_until_quiet
from tests.client import Api, new_email
from tests.commands import audit, nameko_hw
from tests.integration.test_consistency import frozen

RESOLVED_S = 20
AT_ONCE_S = 1.2  # less than a wait for a lock, a deadline or a recovery would take


@contextmanager
def locked(stack: Stack, user_id: str) -> Iterator[None]:
    """Somebody else holds the account meanwhile."""
    with database(stack, "billing") as connection:
        connection.exec_driver_sql("select 1 from accounts where user_id = %s for update", (user_id,))
        yield


def add_pending(stack: Stack, count: int, user_id: str, price: int = 1) -> None:
    """Pending orders, which are due, as a crash leaves them."""
    rows(
        stack,
        "orders",
        """
        insert into orders (id, request_id, user_id, price, status, retry_at)
        select gen_random_uuid(), gen_random_uuid(), cast(:user as uuid), :price, 'pending', now() - interval '1 s'
        from generate_series(1, :count) returning 1""",
        user=user_id,
        price=price,
        count=count,
    )


def pending_of(stack: Stack, user_id: str) -> int:
    count: int = one(
        stack, "orders", "select count(*) from orders where user_id = :user and status = 'pending'", user=user_id
    )
    return count


def test_a_locked_account_delays_only_itself(stack: Stack, api: Api):
    held = api.new_user(balance=1000)["id"]
    neighbours = [api.new_user(balance=1000)["id"] for _ in range(4)]
    with locked(stack, held), ThreadPoolExecutor(12) as pool:
        stuck = [pool.submit(api.order, held, 1) for _ in range(8)]
        for _ in range(5):
            started = time.monotonic()
            answers = list(pool.map(lambda user_id: api.order(user_id, 1), neighbours))
            assert time.monotonic() - started < AT_ONCE_S
            assert {answer.json()["status"] for answer in answers} == {"paid"}
        waiting = [answer.result() for answer in stuck]
        started = time.monotonic()
        waiting.append(api.order(held, 1))
        assert time.monotonic() - started < AT_ONCE_S
        for answer in waiting:
            assert (answer.status_code, answer.json()["status"]) == (202, "pending")
            assert int(answer.headers["Retry-After"]) >= 1
        moved = [api.deposit(held, 5), api.withdraw(held, 5)]
        assert {answer.status_code for answer in moved} == {503}
        assert {answer.json()["type"] for answer in moved} == {"urn:nameko-hw:problem:account-busy"}
    wait_until_quiet(stack)
    assert api.balance(held) == 1000 - len(waiting)
    assert api.balance(neighbours[0]) == 1000 - 5
    assert violations(stack) == []


def test_an_order_of_a_user_whose_account_is_on_its_way_waits_for_it(stack: Stack, api: Api):
    user_id, key = str(uuid4()), str(uuid4())
    rows(
        stack,
        "users",
        """insert into users (id, name, email, status, retry_at)
                            values (:id, 'Ada', :email, 'pending', 'infinity') returning 1""",
        id=user_id,
        email=new_email(),
    )
    answer = api.order(user_id, 5, key)
    order = answer.json()
    assert (answer.status_code, order["status"]) == (202, "pending")
    attempts = "select attempts from orders where id = :id"
    wait_for(lambda: one(stack, "orders", attempts, id=order["id"]) >= 2, RESOLVED_S, "two rounds of recovery")
    assert api.get(f"/orders/{order['id']}").json() == order
    rows(stack, "users", "update users set retry_at = now() where id = :id returning 1", id=user_id)
    ended = wait_for(lambda: has_ended(api, order["id"]), RESOLVED_S, "the order to end")
    assert (ended["status"], ended["reason"]) == ("rejected", "insufficient_funds")
    assert api.order(user_id, 5, key).json() == ended
    assert api.items(f"/orders?user_id={user_id}") == [ended]
    assert [letter["kind"] for letter in api.letters(user_id, 1)] == ["order_rejected"]
    rows(stack, "users", "delete from users where id = :id returning 1", id=user_id)  # its event was never written


def has_ended(api: Api, order_id: str):
    order = api.get(f"/orders/{order_id}").json()
    return order if order["status"] != "pending" else None


def test_an_order_that_was_accepted_is_shown_though_there_is_no_such_user(stack: Stack, api: Api):
    user_id, key = str(uuid4()), str(uuid4())
    with frozen(stack, "users"):
        accepted = api.order(user_id, 5, key)
        assert accepted.status_code == 202
    ended = wait_for(lambda: has_ended(api, accepted.json()["id"]), RESOLVED_S, "the order to end")
    assert (ended["status"], ended["reason"]) == ("rejected", "account_not_found")
    assert api.items(f"/orders?user_id={user_id}") == [ended]
    again = api.order(user_id, 5, key)
    assert (again.status_code, again.json(), again.headers["Location"]) == (201, ended, f"/orders/{ended['id']}")
    assert api.letters(user_id) == []
    refused_at_once = api.order(user_id, 6, f"{key} 2")
    assert refused_at_once.status_code == api.order(user_id, 6, f"{key} 2").status_code == 404
    assert api.items(f"/orders?user_id={user_id}") == [ended]
    assert "clean" in audit(stack)


def test_thousands_of_pending_orders_are_finished_in_a_row(stack: Stack, api: Api):
    rich, poor = api.new_user(balance=10**6)["id"], api.new_user(balance=5)["id"]
    add_pending(stack, 2000, rich)
    add_pending(stack, 100, poor, price=6)
    wait_for(lambda: pending_of(stack, rich) + pending_of(stack, poor) == 0, RESOLVED_S, "all orders to end")
    assert api.balance(rich) == 10**6 - 2000
    wait_until_quiet(stack)
    assert violations(stack) == []


def test_one_that_cannot_be_settled_harms_no_other_and_ends(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    deposit = api.deposit(user_id, 7).json()
    rows(
        stack,
        "orders",
        """
        insert into orders (id, request_id, user_id, price, status, retry_at, promised)
        values (:id, gen_random_uuid(), cast(:user as uuid), 7, 'pending', now(), true) returning 1""",
        id=deposit["operation_id"],
        user=user_id,
    )
    add_pending(stack, 50, user_id)
    wait_for(lambda: pending_of(stack, user_id) == 0, RESOLVED_S, "all orders to end")
    ended = api.get(f"/orders/{deposit['operation_id']}").json()
    assert (ended["status"], ended["reason"]) == ("rejected", "operation_mismatch")
    assert api.balance(user_id) == 107 - 50
    api.letters(user_id, 50)
    assert "clean" in audit(stack)


def test_one_that_billing_refuses_to_look_at_is_reported_and_harms_no_other(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    add_pending(stack, 1, user_id, price=10**12 + 1)  # more than an amount may be
    add_pending(stack, 30, user_id)
    wait_for(lambda: pending_of(stack, user_id) == 1, RESOLVED_S, "the others to end")
    trouble = "select trouble from orders where user_id = :user and status = 'pending'"
    wait_for(lambda: one(stack, "orders", trouble, user=user_id), RESOLVED_S, "the trouble to be noted")
    assert "InvalidArgument" in one(stack, "orders", trouble, user=user_id)
    listed = nameko_hw(stack, "pending").stdout
    assert "InvalidArgument" in listed and user_id in listed
    [port] = stack.ports["orders"]
    rows(
        stack,
        "orders",
        "update orders set created_at = now() - interval '1 day' where user_id = :user and "
        "status = 'pending' returning 1",
        user=user_id,
    )
    stuck = 'nameko_hw_stuck{service="orders"} 1.0'
    wait_for(lambda: stuck in Api(f"http://127.0.0.1:{port}").get("/metrics").text, RESOLVED_S, "the alarm")
    rows(stack, "orders", "delete from orders where user_id = :user and status = 'pending' returning 1", user=user_id)


@pytest.mark.parametrize(
    "path, body, other",
    [
        ("/users", {"name": "Bea"}, {"name": "Cleo"}),
        ("/billing/accounts/{nobody}/deposit", {"amount": 5}, {"amount": 6}),
        ("/billing/accounts/{nobody}/withdraw", {"amount": 5}, {"amount": 6}),
        ("/orders", {"price": 5}, {"price": 6}),
    ],
)
def test_a_key_keeps_its_first_request_and_its_answer_also_when_it_was_refused(
    stack: Stack, api: Api, path: str, body: dict, other: dict
):
    nobody, taken, key = str(uuid4()), api.new_user()["email"], str(uuid4())
    path = path.format(nobody=nobody)
    whom = {"/users": {"email": taken}, "/orders": {"user_id": nobody}}.get(path, {})
    first = api.post(path, body | whom, key)
    assert first.status_code in (404, 409)
    fresh = whom | ({"email": new_email()} if path == "/users" else {})
    assert api.post(path, other | fresh, key).status_code == 422
    again = api.post(path, body | whom, key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotent-Replayed"] == "true" and "Idempotent-Replayed" not in first.headers
    if path == "/users":
        with ThreadPoolExecutor(8) as pool:
            key = str(uuid4())
            answers = list(
                pool.map(lambda number: api.post(path, {"name": f"N{number % 2}", "email": taken}, key), range(16))
            )
        assert {answer.status_code for answer in answers} == {409, 422}
        assert sum(answer.status_code == 409 and "Idempotent-Replayed" not in answer.headers for answer in answers) == 1


def test_a_deposit_that_was_refused_without_a_key_leaves_nothing(stack: Stack, api: Api):
    nobody = uuid4()
    assert api.deposit(str(nobody), 5).status_code == 404
    assert one(stack, "billing", "select count(*) from operations where user_id = :id", id=UUID(str(nobody))) == 0
