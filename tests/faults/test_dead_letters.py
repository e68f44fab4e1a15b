"""`nameko-hw dead-letters` lists, shows, replays and drops what could not be handled, on the running system."""

import base64
from uuid import uuid4

import pytest

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import one, rows
from tests.broker import dead_letters, publish
from tests.client import Api
from tests.commands import nameko_hw, nameko_hw_process
from tests.faults.test_outages import killed
from tests.integration.test_events import broken_table

MANY = 1_000


def listed(stack: Stack) -> list[str]:
    """The lines of the list but for the last, which counts them."""
    return nameko_hw(stack, "dead-letters", "list").stdout.splitlines()[:-1]


@pytest.fixture(autouse=True)
def _no_older_letters(stack: Stack) -> None:
    for event in ("order_paid", "order_rejected", "user_registered"):
        dead_letters(stack, event)


def test_a_letter_is_listed_shown_and_replayed(stack: Stack, api: Api):
    user_id = api.new_user(balance=10)["id"]
    with broken_table(stack, "letters"):
        order = api.order(user_id, 1).json()
        [line] = wait_for(lambda: listed(stack), 20, "a dead letter")
    assert "  notifications.on_order_paid  " in line
    assert "ProgrammingError at attempt 4 (4 failed attempts)" in line
    dead_id = line.split()[0]
    shown = nameko_hw(stack, "dead-letters", "show", dead_id).stdout
    assert order["id"] in shown and '"attempts": 4' in shown
    assert listed(stack) == [line]
    replayed = nameko_hw_process(stack, "dead-letters", "replay", dead_id)
    assert replayed.stdout.splitlines()[-1] == "1 dead letter replayed"
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order["id"]]
    assert listed(stack) == []


def test_letters_are_dropped_one_by_one_or_all(stack: Stack):
    for number in range(3):
        publish(stack, "orders.events", "order_paid", {"number": number})
    lines = wait_for(lambda: found if len(found := listed(stack)) == 3 else None, 20, "three dead letters")
    assert all("no OrderPaid" in line for line in lines)
    dropped = nameko_hw(stack, "dead-letters", "drop", lines[1].split()[0])
    assert dropped.stdout.splitlines()[-1] == "1 dead letter dropped"
    assert listed(stack) == [lines[0], lines[2]]
    assert nameko_hw(stack, "dead-letters", "drop", "--all").stdout.splitlines()[-1] == "2 dead letters dropped"
    assert listed(stack) == []


def test_what_is_replayed_and_fails_again_is_back_under_its_id(stack: Stack):
    body = b"{nonsense \xff"
    publish(stack, "users.events", "user_registered", body, content_type="application/json", content_encoding="utf-8")
    [line] = wait_for(lambda: listed(stack), 20, "a dead letter")
    assert base64.b64encode(body).decode() in nameko_hw(stack, "dead-letters", "show", "--all").stdout
    assert nameko_hw(stack, "dead-letters", "replay", "--all").returncode == 0
    [again] = wait_for(lambda: listed(stack), 20, "the dead letter again")
    assert again.split()[0] == line.split()[0]


def test_letters_are_seen_and_dropped_while_the_broker_is_away(stack: Stack):
    publish(stack, "orders.events", "order_paid", {"number": "one"})
    [line] = wait_for(lambda: listed(stack), 20, "a dead letter")
    with killed(stack.rabbitmq):
        assert listed(stack) == [line]
        assert nameko_hw(stack, "dead-letters", "drop", line.split()[0]).returncode == 0
        assert listed(stack) == []
    wait_for(stack.is_ready, 60, "the stack to be ready")


def test_many_letters_are_replayed_once_each_and_kept_when_they_fail(stack: Stack):
    rows(
        stack,
        "notifications",
        """
        insert into inbox (handler, key, body, headers, attempts, reason)
        select 'on_order_paid', 'many ' || n, '{}', '{}', 4, 'a test' from generate_series(1, :many) as n
        returning 1""",
        many=MANY,
    )
    assert len(listed(stack)) == MANY
    replayed = nameko_hw(stack, "dead-letters", "replay", "--all").stdout.splitlines()
    assert replayed[-1] == f"{MANY} dead letters replayed"
    assert len(set(replayed)) == MANY + 1
    count = "select count(*) from inbox where next_attempt_at is null and reason like 'no OrderPaid%'"
    wait_for(lambda: one(stack, "notifications", count) == MANY, 60, "all to have failed again")
    assert len(dead_letters(stack, "order_paid")) == MANY


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["show"], "say which dead letters to show"),
        (["drop"], "say which dead letters to drop"),
        (["replay", "x", "--all"], "say which dead letters to replay"),
        (["show", str(uuid4())], "there is no dead letter"),
        (["drop", "notifications-99999999999999999999"], "there is no dead letter notifications-99999999999999999999"),
        (["list", "notifications-1"], "say which dead letters to list"),
    ],
)
def test_a_wrong_call_is_said_in_one_line(stack: Stack, arguments: list[str], says: str):
    refused = nameko_hw(stack, "dead-letters", *arguments)
    assert refused.returncode == 1
    assert says in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_a_database_that_does_not_answer_is_said_in_one_line(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(stack), "database_url", lambda *_: "postgresql+psycopg2://postgres@127.0.0.1:1/none")
    refused = nameko_hw_process(stack, "dead-letters", "list")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith("nameko-hw: a database does not answer (connection to server at ")
    assert "Connection refused" in line
