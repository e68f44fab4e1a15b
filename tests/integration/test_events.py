"""Events in: an event that fails is tried again, and one that cannot be handled is kept aside, with the reason."""
import json
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from kombu import Message
from sqlalchemy import text

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import database, one, wait_until_quiet
from tests.broker import HANDLERS, dead_letters, publish
from tests.client import Api

DEAD_S = 15


@contextmanager
def broken_table(stack: Stack, table: str) -> Iterator[None]:
    """Every handler that needs the table fails meanwhile."""
    rename(stack, table, f"{table}_away")
    try:
        yield
    finally:
        rename(stack, f"{table}_away", table)


def rename(stack: Stack, before: str, after: str) -> None:
    with database(stack, "notifications") as connection:
        connection.execute(text(f"alter table {before} rename to {after}"))


def wait_for_dead_letter(stack: Stack, event: str) -> Message:
    [letter] = wait_for(lambda: dead_letters(stack, event), DEAD_S, "a dead letter")
    return letter


def test_an_event_whose_handler_fails_for_a_while_is_handled_in_the_end(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    with broken_table(stack, "letters"):
        order = api.order(user_id, 1).json()
        wait_for(lambda: outcomes(stack, "order_paid", "retried"), DEAD_S, "a first failure")
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order["id"]]
    assert dead_letters(stack, "order_paid") == []


def outcomes(stack: Stack, event: str, outcome: str) -> float:
    [port] = stack.ports["notifications"]
    wanted = f'nameko_hw_events_handled_total{{event="{event}",outcome="{outcome}",service="notifications"}}'
    lines = Api(f"http://127.0.0.1:{port}").get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


def test_an_event_that_always_fails_is_tried_four_times_and_kept_aside(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    retried, dead = outcomes(stack, "order_paid", "retried"), outcomes(stack, "order_paid", "dead")
    with broken_table(stack, "letters"):
        order = api.order(user_id, 1).json()
        letter = wait_for_dead_letter(stack, "order_paid")
    assert json.loads(letter.body)["order_id"] == order["id"]
    assert letter.headers["x-attempt"] == 4
    assert "ProgrammingError" in letter.headers["x-reason"]
    assert outcomes(stack, "order_paid", "retried") == retried + 3
    assert outcomes(stack, "order_paid", "dead") == dead + 1
    publish(stack, "", HANDLERS["order_paid"].name, json.loads(letter.body))
    assert [one_["order_id"] for one_ in api.letters(user_id, 1)] == [order["id"]]
    wait_until_quiet(stack)


@pytest.mark.parametrize("body", [
    {}, [], "text", None, 5, {"event_id": str(uuid4())},
    {"event_id": str(uuid4()), "order_id": str(uuid4()), "user_id": str(uuid4()), "price": -1},
    {"event_id": str(uuid4()), "order_id": str(uuid4()), "user_id": str(uuid4()), "price": 1, "colour": "red"},
])
def test_an_invalid_event_is_kept_aside_at_once_and_blocks_nothing(stack: Stack, api: Api, body):
    letters = one(stack, "notifications", "select count(*) from letters")
    publish(stack, "orders.events", "order_paid", body)
    letter = wait_for_dead_letter(stack, "order_paid")
    assert json.loads(letter.body) == body
    assert letter.headers["x-attempt"] == 0
    assert letter.headers["x-reason"].startswith("no OrderPaid: ")
    user_id = api.new_user(balance=10)["id"]
    api.order(user_id, 1)
    api.letters(user_id, 1)
    assert one(stack, "notifications", "select count(*) from letters") == letters + 1


@pytest.mark.parametrize("properties, body", [
    ({"content_type": "application/json", "content_encoding": "utf-8"}, b"{nonsense"),
    ({"content_type": "application/json", "content_encoding": "utf-8"}, b"\xff\xfe"),
    ({"content_type": "application/x-python-serialize", "content_encoding": "binary"}, b"cos\nsystem\n(S'true'\ntR."),
    ({"content_type": "text/x-unheard-of", "content_encoding": "utf-8"}, b"x"),
])
def test_an_event_that_cannot_be_decoded_is_kept_aside_at_once(stack: Stack, properties, body):
    publish(stack, "users.events", "user_registered", body, **properties)
    letter = wait_for_dead_letter(stack, "user_registered")
    assert letter.body == body
    assert letter.headers["x-reason"].startswith("cannot be decoded: ")


def test_a_broken_rpc_request_is_dropped_and_billing_goes_on(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    pid = stack.supervisor.pid("billing")
    for body in ({}, [], None, {"args": []}, {"args": 5, "kwargs": 5}, {"args": [], "kwargs": {}}):
        for reply_to in ({}, {"reply_to": "nobody"}):
            publish(stack, "nameko-rpc", "billing.pay", body, **reply_to)
            publish(stack, "nameko-rpc", "billing.no_such_method", body, **reply_to)
    publish(stack, "nameko-rpc", "billing.pay", b"{nonsense", content_type="application/json", content_encoding="utf-8")
    assert api.order(user_id, 4).json()["status"] == "paid"
    assert api.balance(user_id) == 6
    assert stack.supervisor.pid("billing") == pid
