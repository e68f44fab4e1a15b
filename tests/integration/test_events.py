"""Events that fail are tried again from the inbox; events that cannot be handled are kept there, with the reason."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from sqlalchemy import text

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import database, one, rows, wait_until_quiet
from tests.broker import HANDLERS, dead_letters, failing, make_due, publish
from tests.client import Api

DEAD_S = 15
DEADLY, SLOW = 13, 17  # prices at which a trigger of the table fails, or sleeps


@contextmanager
def broken_table(stack: Stack, table: str) -> Iterator[None]:
    """Make every handler fail that needs the table."""
    rename(stack, table, f"{table}_away")
    try:
        yield
    finally:
        rename(stack, f"{table}_away", table)


def rename(stack: Stack, before: str, after: str) -> None:
    with database(stack, "notifications") as connection:
        connection.execute(text(f"alter table {before} rename to {after}"))


@pytest.fixture
def choosy_table(stack: Stack) -> Iterator[None]:
    """Make the table of letters refuse one price, and be slow for another."""
    with database(stack, "notifications") as connection:
        connection.execute(
            text(f"""
            create function choose() returns trigger language plpgsql as $$ begin
                if new.body like '%for 0.{DEADLY} %' then raise 'a letter that cannot be'; end if;
                if new.body like '%for 0.{SLOW} %' then perform pg_sleep(60); end if;
                return new;
            end $$""")
        )
        connection.execute(
            text("create trigger choose before insert on letters for each row execute function choose()")
        )
    yield
    with database(stack, "notifications") as connection:
        connection.execute(text("drop function choose cascade"))


def wait_for_dead_letter(stack: Stack, event: str, timeout_s: float = DEAD_S) -> Any:
    [letter] = wait_for(lambda: dead_letters(stack, event), timeout_s, "a dead letter")
    return letter


def outcomes(stack: Stack, event: str, outcome: str) -> float:
    labels = f'event="{event}",outcome="{outcome}",service="notifications"'
    return metric(stack, f"nameko_hw_events_handled_total{{{labels}}}")


def metric(stack: Stack, wanted: str) -> float:
    [port] = stack.ports["notifications"]
    lines = Api(f"http://127.0.0.1:{port}").get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


def order_paid(price: int = 1, **more: Any) -> dict[str, Any]:
    return {"event_id": str(uuid4()), "order_id": str(uuid4()), "user_id": str(uuid4()), "price": price, **more}


@contextmanager
def without_letters_of(stack: Stack, events: list[dict[str, Any]]) -> Iterator[None]:
    """Remove the letters of events without orders afterwards: for the books each letter has an order."""
    try:
        yield
    finally:
        rows(
            stack,
            "notifications",
            "delete from letters where order_id = any(cast(:ids as uuid[])) returning 1",
            ids=[event["order_id"] for event in events],
        )


def letters_of(stack: Stack, events: list[dict[str, Any]]) -> set[str]:
    found = rows(
        stack,
        "notifications",
        "select order_id from letters where order_id = any(cast(:ids as uuid[]))",
        ids=[event["order_id"] for event in events],
    )
    return {str(order_id) for (order_id,) in found}


def publish_all(stack: Stack, bodies: list[dict[str, Any]]) -> None:
    """Publish events of paid orders so quickly that a handler gets many at a time."""
    with Connection(stack.amqp_uri) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(
                json.dumps(body),
                exchange="orders.events",
                routing_key="order_paid",
                content_type="application/json",
                content_encoding="utf-8",
            )


def test_an_event_whose_handler_fails_for_a_while_is_handled_in_the_end(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    with broken_table(stack, "letters"):
        order = api.order(user_id, 1).json()
        wait_for(lambda: outcomes(stack, "order_paid", "retried"), DEAD_S, "a first failure")
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order["id"]]
    assert dead_letters(stack, "order_paid") == []
    wait_for(lambda: not failing(stack), DEAD_S, "the inbox to be empty")


def test_an_event_that_always_fails_is_tried_four_times_and_kept(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    retried, dead = outcomes(stack, "order_paid", "retried"), outcomes(stack, "order_paid", "dead")
    with broken_table(stack, "letters"):
        order = api.order(user_id, 1).json()
        letter = wait_for_dead_letter(stack, "order_paid")
    event = json.loads(letter.body)
    assert event["order_id"] == order["id"] and letter.key == event["event_id"]
    assert letter.attempts == 4
    assert letter.reason == "ProgrammingError at attempt 4"
    assert outcomes(stack, "order_paid", "retried") == retried + 3
    assert outcomes(stack, "order_paid", "dead") == dead + 1
    publish(stack, "", HANDLERS["order_paid"].name, event)
    assert [one_["order_id"] for one_ in api.letters(user_id, 1)] == [order["id"]]
    wait_until_quiet(stack)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "text",
        None,
        5,
        {"event_id": str(uuid4())},
        {"event_id": str(uuid4()), "order_id": str(uuid4()), "user_id": str(uuid4()), "price": -1},
    ],
)
def test_an_invalid_event_is_a_dead_letter_at_once_and_blocks_nothing(stack: Stack, api: Api, body):
    letters = one(stack, "notifications", "select count(*) from letters")
    publish(stack, "orders.events", "order_paid", body)
    letter = wait_for_dead_letter(stack, "order_paid")
    assert json.loads(letter.body) == body
    assert letter.attempts == 0
    assert letter.reason.startswith("no OrderPaid: ")
    user_id = api.new_user(balance=10)["id"]
    api.order(user_id, 1)
    api.letters(user_id, 1)
    assert one(stack, "notifications", "select count(*) from letters") == letters + 1


def test_an_event_of_a_newer_producer_is_handled_without_what_is_new_in_it(stack: Stack):
    event = order_paid(colour="red", lines=[{"sku": 1}])
    with without_letters_of(stack, [event]):
        publish(stack, "orders.events", "order_paid", event)
        wait_for(lambda: letters_of(stack, [event]), DEAD_S, "the letter")
    assert dead_letters(stack, "order_paid") == []


@pytest.mark.parametrize(
    "properties, body",
    [
        ({"content_type": "application/json", "content_encoding": "utf-8"}, b"{nonsense"),
        ({"content_type": "application/json", "content_encoding": "utf-8"}, b"\xff\xfe"),
        (
            {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
            b"cos\nsystem\n(S'true'\ntR.",
        ),
        ({"content_type": "text/x-unheard-of", "content_encoding": "utf-8"}, b"x\0y"),
        (
            {"content_type": "application/json", "content_encoding": "utf-16", "headers": {"a\0b": "c\0d", "e": 1.5}},
            b"\0{",
        ),
    ],
)
def test_an_event_that_cannot_be_decoded_is_a_dead_letter_at_once(stack: Stack, properties, body):
    publish(stack, "users.events", "user_registered", body, **properties)
    letter = wait_for_dead_letter(stack, "user_registered")
    assert letter.body == body
    assert (letter.content_type, letter.content_encoding) == tuple(properties.values())[:2]
    assert letter.key.startswith("sha256:")
    assert letter.reason.startswith("cannot be decoded: ")


@pytest.mark.usefixtures("choosy_table")
def test_a_bad_event_among_good_ones_harms_only_itself(stack: Stack):
    events = [order_paid(DEADLY if number == 10 else 1) for number in range(40)]
    bad = events[10]
    retried = outcomes(stack, "order_paid", "retried")
    with without_letters_of(stack, events):
        publish_all(stack, events)
        wait_for(lambda: len(letters_of(stack, events)) == len(events) - 1, DEAD_S, "the letters of the good ones")
        letter = wait_for_dead_letter(stack, "order_paid")
        assert json.loads(letter.body) == bad
        assert letter.attempts == 4
        assert bad["order_id"] not in letters_of(stack, events)
    assert outcomes(stack, "order_paid", "retried") == retried + 3, "good ones were tried again too"


@pytest.mark.usefixtures("choosy_table")
def test_a_slow_event_delays_only_itself(stack: Stack, api: Api):
    slow, user_id = order_paid(SLOW), api.new_user(balance=10)["id"]
    publish(stack, "orders.events", "order_paid", slow)
    wait_for(lambda: failing(stack), DEAD_S, "the slow one to be in the inbox")
    api.order(user_id, 1)
    api.letters(user_id, 1)
    letter = wait_for_dead_letter(stack, "order_paid", 60)
    assert json.loads(letter.body) == slow and letter.attempts == 4


def test_an_event_that_the_inbox_does_not_take_is_not_acknowledged(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    log = stack.folder / "logs" / "notifications.log"
    begin = log.stat().st_size
    with broken_table(stack, "letters"), broken_table(stack, "inbox"):
        order = api.order(user_id, 1).json()
        wait_for(lambda: b"the inbox does not take" in log.read_bytes()[begin:], DEAD_S, "the inbox to fail")
        stack.supervisor.restart("notifications")  # so that the broker has it back, if it was not acknowledged
    wait_for(stack.is_ready, 30, "the stack to be ready")
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order["id"]]


def test_an_event_whose_attempt_was_broken_off_by_a_crash_is_handled_when_its_lease_is_over(stack: Stack):
    event = order_paid()
    with without_letters_of(stack, [event]):
        make_due(stack, "on_order_paid", json.dumps(event).encode())
        wait_for(lambda: letters_of(stack, [event]), DEAD_S, "the letter")
        wait_for(lambda: not failing(stack), DEAD_S, "the inbox to be empty")
        duplicates = outcomes(stack, "order_paid", "duplicate")
        make_due(stack, "on_order_paid", json.dumps(event).encode())  # as if the row had not been removed
        wait_for(lambda: not failing(stack), DEAD_S, "the inbox to be empty again")
        assert outcomes(stack, "order_paid", "duplicate") == duplicates + 1
        assert len(letters_of(stack, [event])) == 1


def test_an_event_for_a_handler_that_is_no_more_is_a_dead_letter(stack: Stack):
    make_due(stack, "on_something_of_old", b"{}")
    [letter] = wait_for(lambda: dead_letters(stack, "something_of_old"), DEAD_S, "a dead letter")
    assert letter.reason == "there is no handler on_something_of_old"


def test_the_metrics_count_what_is_in_the_inbox(stack: Stack):
    publish(stack, "orders.events", "order_paid", {"nothing": 1})
    wait_for(lambda: metric(stack, 'nameko_hw_dead_letters{service="notifications"}') == 1, DEAD_S, "a dead letter")
    assert metric(stack, 'nameko_hw_inbox_waiting{service="notifications"}') == 0
    assert len(dead_letters(stack, "order_paid")) == 1


def test_a_broken_rpc_request_is_dropped_and_billing_goes_on(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    pid = stack.supervisor.pid("billing")
    bodies: list[Any] = [{}, [], None, {"args": []}, {"args": 5, "kwargs": 5}, {"args": [], "kwargs": {}}]
    for body in bodies:
        for reply_to in ({}, {"reply_to": "nobody"}):
            publish(stack, "nameko-rpc", "billing.pay", body, **reply_to)
            publish(stack, "nameko-rpc", "billing.no_such_method", body, **reply_to)
    publish(stack, "nameko-rpc", "billing.pay", b"{nonsense", content_type="application/json", content_encoding="utf-8")
    assert api.order(user_id, 4).json()["status"] == "paid"
    assert api.balance(user_id) == 6
    assert stack.supervisor.pid("billing") == pid
