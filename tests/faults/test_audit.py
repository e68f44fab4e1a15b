"""The audit finds each kind of violation, names it, and leaves out what it is told to."""
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.local.stack import Stack
from tests.books import database, wait_until_quiet
from tests.client import Api
from tests.commands import audit, nameko_hw


@contextmanager
def changed(stack: Stack, service: str, change: str, back: str, **values: object) -> Iterator[None]:
    """Do harm to the data of a service, and mend it at the end."""
    with database(stack, service) as connection:
        connection.execute(text(change), values)
    try:
        yield
    finally:
        with database(stack, service) as connection:
            connection.execute(text(back), values)


@pytest.fixture(scope="module")
def order(stack: Stack) -> dict:
    """A paid order with its letter, in a quiet system."""
    with Api(stack.url) as api:
        user_id = api.new_user(balance=100)["id"]
        paid: dict = api.order(user_id, 30).json()
        api.letters(user_id, 1)
        wait_until_quiet(stack)
        return paid


HARM = [
    ("billing", "update accounts set balance = balance + 1 where user_id = :user",
     "update accounts set balance = balance - 1 where user_id = :user", "account {user}: balance 71"),
    ("orders", "update orders set status = 'rejected', reason = 'insufficient_funds' where id = :id",
     "update orders set status = 'paid', reason = null where id = :id",
     "order {id}: rejected, but billing has a payment"),
    ("orders", "update orders set status = 'pending', retry_at = 'infinity' where id = :id",
     "update orders set status = 'paid' where id = :id", "order {id}: still pending"),
    ("orders", "update orders set price = price + 1 where id = :id",
     "update orders set price = price - 1 where id = :id", "order {id}: its payment is of another account or amount"),
    ("orders", "update orders set id = :other where id = :id",
     "update orders set id = :id where id = :other", "payment for order {id}: there is no such order"),
    ("notifications", "update letters set kind = 'order_rejected' where order_id = :id",
     "update letters set kind = 'order_paid' where order_id = :id",
     "order {id}: paid, its letters are ['order_rejected']"),
    ("notifications", "update letters set order_id = :other where order_id = :id",
     "update letters set order_id = :id where order_id = :other", "order {id}: paid, its letters are none"),
]


@pytest.mark.parametrize("service, change, back, says", HARM)
def test_each_kind_of_violation_is_found_and_named(stack: Stack, order: dict, service, change, back, says):
    values = {name: value for name, value in
              {"user": order["user_id"], "id": order["id"], "other": str(uuid4())}.items() if f":{name}" in change}
    with changed(stack, service, change, back, **values):
        report = nameko_hw(stack, "audit", "--patience", "0.1")
        assert report.returncode == 1, report.stdout + report.stderr
        assert f"VIOLATION  {says.format(user=order['user_id'], id=order['id'])}" in report.stdout
    assert "clean: no violations" in audit(stack)


def test_it_prints_what_it_counted(stack: Stack, order: dict):
    report = audit(stack)
    for name in ("accounts", "orders paid", "payments", "letters"):
        assert any(line.startswith(name) for line in report.splitlines()), report


def test_it_can_be_kept_to_a_window(stack: Stack, order: dict):
    _, change, back, _ = HARM[5]
    created = datetime.fromisoformat(order["created_at"])
    before, after = created - timedelta(seconds=1), datetime.now(UTC) + timedelta(seconds=1)
    with changed(stack, "notifications", change, back, id=order["id"]):
        assert "clean" in audit(stack, "--until", before.isoformat())
        assert "clean" in audit(stack, "--since", after.isoformat())
        assert "clean" in audit(stack, "--older-than", "3600")
        seen = nameko_hw(stack, "audit", "--since", before.isoformat(), "--patience", "0")
        assert seen.returncode == 1


@pytest.mark.parametrize("option, value, says", [
    ("--since", "yesterday", "is not a time"), ("--older-than", "-1", "is not a number of seconds"),
    ("--patience", "long", "is not a number of seconds"),
])
def test_a_wrong_option_is_named(stack: Stack, option: str, value: str, says: str):
    refused = nameko_hw(stack, "audit", option, value)
    assert refused.returncode == 2
    assert says in refused.stderr and option in refused.stderr and "Traceback" not in refused.stderr


def test_a_database_that_is_away_is_said_without_a_traceback(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stack, "settings", stack.settings | {
        "BILLING_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:9/billing"})
    refused = nameko_hw(stack, "audit")
    assert refused.returncode == 1
    assert refused.stderr.startswith("nameko-hw: a database does not answer") and "secret" not in refused.stderr
