"""The invariants, on real PostgreSQL and real RabbitMQ, with services that stop answering for a while."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from requests import Response

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import one, rows, violations, wait_until_quiet
from tests.client import Api, new_email

RESOLVED_S = 20


@contextmanager
def frozen(stack: Stack, service: str) -> Iterator[None]:
    """The process of a service does not run meanwhile, as if it, or its machine, hung."""
    pid = stack.supervisor.pid(service)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def status_of(api: Api, order_id: str) -> str:
    status: str = api.get(f"/orders/{order_id}").json()["status"]
    return status


def test_an_order_whose_payment_is_unknown_is_pending_and_resolves_by_itself(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    with frozen(stack, "billing"):
        started = time.monotonic()
        answer = api.order(user_id, 60)
        assert time.monotonic() - started < 4
        order = answer.json()
        assert (answer.status_code, order["status"], order["reason"]) == (202, "pending", None)
        assert answer.headers["Location"] == f"/orders/{order['id']}"
        assert api.letters(user_id) == []
    wait_for(lambda: status_of(api, order["id"]) == "paid", RESOLVED_S, "the order to be paid")
    assert api.balance(user_id) == 40
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order["id"]]


def test_repeating_a_pending_order_under_its_key_finishes_it(stack: Stack, api: Api):
    user_id, key = api.new_user(balance=100)["id"], str(uuid4())
    with frozen(stack, "billing"):
        pending = api.order(user_id, 60, key)
        assert pending.status_code == 202
    again = api.order(user_id, 60, key)
    assert (again.status_code, again.json()["status"]) == (201, "paid")
    assert again.json()["id"] == pending.json()["id"]
    assert api.balance(user_id) == 40


def test_a_user_without_an_answer_from_billing_is_pending_and_resolves_by_itself(stack: Stack, api: Api):
    with frozen(stack, "billing"):
        answer = api.post("/users", {"name": "Ada", "email": new_email()})
        user = answer.json()
        assert (answer.status_code, user["status"]) == (201, "pending")
    wait_for(lambda: api.get(f"/users/{user['id']}").json()["status"] == "active", RESOLVED_S, "the user to be active")
    assert api.balance(user["id"]) == 0


def test_orders_are_taken_while_notifications_is_away(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    with frozen(stack, "notifications"):
        order = api.order(user_id, 60)
        assert (order.status_code, order.json()["status"]) == (201, "paid")
        assert api.get("/orders").status_code == 200
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order.json()["id"]]


def test_a_service_that_does_not_run_is_503_and_comes_back(stack: Stack, api: Api):
    user_id = api.new_user()["id"]
    pid = stack.supervisor.pid("billing")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    [refused] = wait_for(lambda: refusals(api, user_id), RESOLVED_S, "a 503")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert int(refused.headers["Retry-After"]) >= 1
    wait_for(api.is_ready, 30, "billing to be back")
    assert api.deposit(user_id, 5).json()["balance"] == 5


def refusals(api: Api, user_id: str) -> list[Response]:
    answer = api.get(f"/billing/accounts/{user_id}")
    return [answer] if answer.status_code == 503 else []


@pytest.mark.parametrize("times_sent", [1, 2])
def test_200_orders_at_once_for_an_account_that_can_pay_120(stack: Stack, api: Api, times_sent):
    user_id = api.new_user(balance=120 * 5)["id"]
    keys = [str(uuid4()) for _ in range(200)]
    with ThreadPoolExecutor(200 if times_sent == 1 else 400) as pool:
        answers = list(pool.map(lambda key: api.order(user_id, 5, key), keys * times_sent))
    for answer, key in zip(answers, keys * times_sent, strict=True):
        if answer.status_code not in (201, 202):
            assert answer.status_code == 503, answer.text
            again = wait_for(lambda key=key: stored(api, user_id, key), RESOLVED_S, "an order to be taken")
            assert again.status_code in (201, 202)
    wait_until_quiet(stack)
    orders = api.items(f"/orders?user_id={user_id}")
    assert len(orders) == 200
    assert sum(order["status"] == "paid" for order in orders) == 120
    assert sum(order["reason"] == "insufficient_funds" for order in orders) == 80
    assert api.balance(user_id) == 0
    letters = api.letters(user_id, 200)
    assert sorted((letter["order_id"], letter["kind"]) for letter in letters) == sorted(
        (order["id"], f"order_{order['status']}") for order in orders
    )
    assert violations(stack) == []


def stored(api: Api, user_id: str, key: str):
    """Send an order again, as a client does that was told to."""
    answer = api.order(user_id, 5, key)
    return answer if answer.status_code in (201, 202) else None


def test_money_moved_from_all_sides_at_once_adds_up(stack: Stack, api: Api):
    user_id = api.new_user(balance=500)["id"]
    moves = [lambda: api.deposit(user_id, 7), lambda: api.withdraw(user_id, 11), lambda: api.order(user_id, 13)] * 40
    with ThreadPoolExecutor(24) as pool:
        answers = [one_.result() for one_ in [pool.submit(move) for move in moves]]
    assert {answer.status_code for answer in answers} <= {200, 201, 202, 402}
    wait_until_quiet(stack)
    deposited = 7 * sum(answer.ok for answer in answers[0::3])
    withdrawn = 11 * sum(answer.ok for answer in answers[1::3])
    paid = 13 * sum(order["status"] == "paid" for order in api.items(f"/orders?user_id={user_id}"))
    assert api.balance(user_id) == 500 + deposited - withdrawn - paid
    statement = api.items(f"/billing/accounts/{user_id}/operations")
    balance = 0
    for line in reversed(statement):
        balance += line["amount"] if line["kind"] == "deposit" else -line["amount"]
        assert line["balance"] == balance >= 0
    assert violations(stack) == []


def test_an_order_for_an_unknown_account_is_closed_without_a_letter(stack: Stack, api: Api):
    user_id = uuid4()
    assert api.order(str(user_id), 5).status_code == 404
    [order] = rows(stack, "orders", "select status, reason from orders where user_id = :user", user=user_id)
    assert tuple(order) == ("rejected", "account_not_found")
    outcome = one(stack, "billing", "select outcome from operations where user_id = :user", user=user_id)
    assert outcome == "account_not_found"
    wait_until_quiet(stack)
    assert violations(stack) == []


def test_a_letter_gets_its_address_when_the_user_is_known_at_last(stack: Stack, api: Api):
    user = api.new_user(balance=10)
    order = api.order(user["id"], 1).json()
    [letter] = api.addressed_letters(user["id"], 1)
    assert letter["email"] == user["email"]
    forget_contact(stack, UUID(user["id"]))
    assert api.letters(user["id"], 1)[0]["email"] is None
    publish_again(stack, "users", UUID(user["id"]))
    wait_for(lambda: api.letters(user["id"])[0]["email"] == user["email"], RESOLVED_S, "the address")
    assert api.letters(user["id"])[0]["order_id"] == order["id"]


def test_an_event_that_comes_again_makes_no_second_letter(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    order = api.order(user_id, 1).json()
    before = api.addressed_letters(user_id, 1)
    duplicates = duplicates_dropped(stack)
    publish_again(stack, "orders", UUID(user_id))
    wait_for(lambda: duplicates_dropped(stack) > duplicates, RESOLVED_S, "the event to come again")
    assert api.letters(user_id) == before
    assert before[0]["order_id"] == order["id"]


def duplicates_dropped(stack: Stack) -> float:
    """How many events the inbox has dropped, as notifications itself counts them."""
    [port] = stack.ports["notifications"]
    lines = Api(f"http://127.0.0.1:{port}").get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("nameko_hw_events_handled_total") and 'outcome="duplicate"' in line
    )


def forget_contact(stack: Stack, user_id: UUID) -> None:
    rows(stack, "notifications", "delete from contacts where user_id = :user returning 1", user=user_id)


def publish_again(stack: Stack, service: str, user_id: UUID) -> None:
    """Make the relay publish the user's events once more, as it does when a crash keeps it from noting that it has."""
    again = """update outbox set published_at = null, claimed_until = '-infinity'
               where body->>'user_id' = :user and published_at is not null returning 1"""
    wait_for(lambda: rows(stack, service, again, user=str(user_id)), RESOLVED_S, "the events to be marked as published")
