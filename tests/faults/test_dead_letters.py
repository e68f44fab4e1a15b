"""`nameko-hw dead-letters` lists, shows, replays and drops what could not be handled, on the running system."""
from uuid import uuid4

import pytest

from services.local.net import wait_for
from services.local.stack import Stack
from tests.broker import dead_letters, publish
from tests.client import Api
from tests.commands import nameko_hw
from tests.integration.test_events import broken_table


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
    assert "evt-orders-order_paid--notifications.on_order_paid" in line
    assert "ProgrammingError at attempt 4 (4 failed attempts)" in line
    dead_id = line.split()[0]
    shown = nameko_hw(stack, "dead-letters", "show", dead_id).stdout
    assert order["id"] in shown and '"x-attempt": 4' in shown
    assert listed(stack) == [line]
    replayed = nameko_hw(stack, "dead-letters", "replay", dead_id)
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


def test_what_is_replayed_and_fails_again_is_back(stack: Stack):
    publish(stack, "users.events", "user_registered", b"{nonsense", content_type="application/json",
            content_encoding="utf-8")
    [line] = wait_for(lambda: listed(stack), 20, "a dead letter")
    assert nameko_hw(stack, "dead-letters", "replay", "--all").returncode == 0
    [again] = wait_for(lambda: listed(stack), 20, "the dead letter again")
    assert again.split()[0] != line.split()[0]


@pytest.mark.parametrize("arguments, says", [
    (["show"], "say which letters to show"), (["drop"], "say which letters to drop"),
    (["replay", "x", "--all"], "say which letters to replay"), (["show", str(uuid4())], "there is no dead letter"),
])
def test_a_wrong_call_is_said_in_one_line(stack: Stack, arguments: list[str], says: str):
    refused = nameko_hw(stack, "dead-letters", *arguments)
    assert refused.returncode == 1
    assert says in refused.stderr and len(refused.stderr.splitlines()) == 1
