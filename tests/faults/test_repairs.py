"""The commands by which an operator mends what a receiver has forgotten, and what is stuck."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from services.local.stack import Stack
from tests.books import one, rows, wait_until_quiet
from tests.client import Api
from tests.commands import audit, nameko_hw
from tests.faults.test_audit import HARM, changed


@pytest.fixture
def order(stack: Stack, api: Api) -> dict:
    """A paid order with its letter, in a quiet system."""
    user_id = api.new_user(balance=100)["id"]
    paid: dict = api.order(user_id, 30).json()
    api.letters(user_id, 1)
    wait_until_quiet(stack)
    return paid


def test_events_of_a_window_are_published_again(stack: Stack, api: Api, order: dict):
    rows(stack, "notifications", "delete from letters where order_id = :id returning 1", id=order["id"])
    since = (datetime.fromisoformat(order["created_at"]) - timedelta(seconds=1)).isoformat()
    before = nameko_hw(stack, "republish", "--since", "2020-01-01", "--until", since, "--type", "order_lost")
    assert "orders: 0 events are published again" in before.stdout
    type_ = {"broker": "order_paid", "http": "order_paid", "events": "payment_accepted"}[stack.style.name]
    done = nameko_hw(stack, "republish", "--since", since, "--type", type_)
    assert done.returncode == 0 and ": 1 event is published again" in done.stdout, done.stdout
    [letter] = api.letters(order["user_id"], 1)
    assert letter["order_id"] == order["id"]
    wait_until_quiet(stack)
    audit(stack)


def test_a_stuck_order_is_settled_at_once(stack: Stack, order: dict):
    stuck = "update orders set status = 'pending', retry_at = 'infinity' where id = :id returning 1"
    rows(stack, "orders", "delete from outbox where body->>'order_id' = cast(:id as text) returning 1", id=order["id"])
    rows(stack, "orders", stuck, id=order["id"])
    done = nameko_hw(stack, "settle", order["id"])
    assert (done.returncode, done.stdout) == (0, f"order {order['id']}: paid\n")
    assert nameko_hw(stack, "settle", order["id"]).stdout == done.stdout  # again changes nothing
    wait_until_quiet(stack)
    audit(stack)


def test_an_order_that_cannot_be_settled_is_reported_with_its_trouble(stack: Stack, order: dict):
    missing = uuid4()
    done = nameko_hw(stack, "settle", str(missing))
    assert (done.returncode, done.stdout) == (1, f"order {missing}: there is no such order\n")
    with changed(
        stack,
        "orders",
        "update orders set status = 'pending', trouble = 'a test', retry_at = 'infinity' where id = :id",
        "update orders set status = 'paid', trouble = null where id = :id",
        id=order["id"],
    ):
        done = nameko_hw(stack, "settle", order["id"], "--wait", "0")
    assert done.returncode == 1 and done.stdout.endswith("attempts: a test\n"), done.stdout


@pytest.mark.parametrize("service, change, back, says", [HARM[0], HARM[1], HARM[5]])
def test_what_needs_a_person_is_named_and_left(stack: Stack, order: dict, service, change, back, says):
    known = {"user": order["user_id"], "id": order["id"], "other": str(uuid4())}
    with changed(stack, service, change, back, **{name: known[name] for name in known if f":{name}" in change + back}):
        done = nameko_hw(stack, "reconcile", "--patience", "0.1", "--since", order["created_at"])
        assert done.returncode == 1
        assert f"LEFT    {says.format(**known)}" in done.stdout and "needs a person" in done.stdout
    audit(stack)


def test_a_reconciliation_of_sound_books_changes_nothing(stack: Stack, order: dict):
    written = "select count(*) from outbox"
    before = one(stack, "orders", written), one(stack, "users", written)
    done = nameko_hw(stack, "reconcile", "--since", datetime.now(UTC).isoformat())
    assert done.returncode == 0 and done.stdout.startswith("0 mended, 0 left to a person"), done.stdout
    assert (one(stack, "orders", written), one(stack, "users", written)) == before
