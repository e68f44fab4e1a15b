"""The audit finds each kind of violation, names it, and leaves out what it is told to."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.local.stack import Stack
from tests.books import database, one, rows, wait_until_quiet
from tests.client import Api, new_email
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
    (
        "billing",
        "update accounts set balance = balance + 1 where user_id = :user",
        "update accounts set balance = balance - 1 where user_id = :user",
        "account {user}: balance 71",
    ),
    (
        "orders",
        "update orders set status = 'rejected', reason = 'insufficient_funds' where id = :id",
        "update orders set status = 'paid', reason = null where id = :id",
        "order {id}: rejected, but billing has a payment",
    ),
    (
        "orders",
        "update orders set status = 'pending', retry_at = 'infinity' where id = :id",
        "update orders set status = 'paid' where id = :id",
        "order {id}: still pending",
    ),
    (
        "orders",
        "update orders set price = price + 1 where id = :id",
        "update orders set price = price - 1 where id = :id",
        "order {id}: its payment is of another account or amount",
    ),
    (
        "orders",
        "update orders set id = :other where id = :id",
        "update orders set id = :id where id = :other",
        "payment for order {id}: there is no such order",
    ),
    (
        "notifications",
        "update letters set kind = 'order_rejected' where order_id = :id",
        "update letters set kind = 'order_paid' where order_id = :id",
        "order {id}: paid, its letters are ['order_rejected']",
    ),
    (
        "notifications",
        "update letters set order_id = :other where order_id = :id",
        "update letters set order_id = :id where order_id = :other",
        "order {id}: paid, its letters are none",
    ),
    (
        "notifications",
        "update letters set order_id = :other where order_id = :id",
        "update letters set order_id = :id where order_id = :other",
        "letter for order {other}: there is no such order",
    ),
    (
        "orders",
        "update orders set status = 'rejected', reason = 'account_not_found' where id = :id",
        "update orders set status = 'paid', reason = null where id = :id",
        "order {id}: refused for want of an account, but its user {user} exists",
    ),
    (
        "orders",
        "update orders set status = 'rejected', reason = 'operation_mismatch' where id = :id",
        "update orders set status = 'paid', reason = null where id = :id",
        "order {id}: rejected, but billing has a payment",
    ),
    (
        "orders",
        """insert into orders (id, request_id, user_id, price, status, reason, retry_at, idempotency_key)
                  select :other, request_id, user_id, 10000, 'rejected', 'operation_mismatch', now(), 'of the copy'
                  from orders where id = :id""",
        "delete from orders where id = :other",
        "request {request}: has made 2 orders",
    ),
    (
        "orders",
        """insert into outbox (event_id, type, body, published_at)
                  select :other, type, body, now() from outbox where body->>'order_id' = cast(:id as text)""",
        "delete from outbox where event_id = :other",
        "order {id}: was told of 2 times",
    ),
    (
        "billing",
        "update operations set outcome = null, balance = null where id = :id",
        "update operations set outcome = 'accepted', balance = 70 where id = :id",
        "operation {id}: neither accepted nor refused",
    ),
]

#: Service, table, and how what the database itself keeps from having two effects is taken away, and put back.
KEYED = [
    (
        "users",
        "users",
        "alter table users drop constraint users_idempotency_key_key",
        "alter table users add constraint users_idempotency_key_key unique (idempotency_key)",
    ),
    *(
        (service, table, f"drop index {table}_key", f"create unique index {table}_key on {table} {columns}")
        for service, table, columns in (
            ("billing", "operations", "(user_id, idempotency_key) where idempotency_key is not null"),
            ("orders", "orders", "(user_id, idempotency_key) where idempotency_key is not null"),
            (
                "notifications",
                "letters",
                "(user_id, idempotency_key) nulls not distinct where idempotency_key is not null",
            ),
        )
    ),
]


@pytest.mark.parametrize("service, change, back, says", HARM)
def test_each_kind_of_violation_is_found_and_named(stack: Stack, order: dict, service, change, back, says):
    known = {"user": order["user_id"], "id": order["id"], "other": str(uuid4())}
    request_id = one(stack, "orders", "select request_id from orders where id = :id", id=order["id"])
    with changed(stack, service, change, back, **{name: known[name] for name in known if f":{name}" in change + back}):
        report = nameko_hw(stack, "audit", "--patience", "0.1")
        assert report.returncode == 1, report.stdout + report.stderr
        assert f"VIOLATION  {says.format(**known, request=request_id)}" in report.stdout
    assert "clean: no violations" in audit(stack)


@pytest.mark.parametrize("service, table, unprotected, protected", KEYED)
def test_a_key_with_two_effects_is_found(
    stack: Stack, order: dict, service: str, table: str, unprotected: str, protected: str
):
    with Api(stack.url) as api:
        key = str(uuid4())
        user = api.post("/users", {"name": "Ada", "email": new_email()}, key).json()
        assert api.deposit(user["id"], 10, key).ok and api.order(user["id"], 1, key).ok
        assert api.post("/notifications", {"user_id": user["id"], "subject": "Hello", "body": ""}, key).ok
        api.letters(user["id"], 2)
        wait_until_quiet(stack)
    others = [
        name
        for (name,) in rows(
            stack,
            service,
            """
        select column_name from information_schema.columns where table_name = :table and column_name not in
        ('id', 'request_id', 'event_id', 'order_id', 'email', 'price', 'amount')""",
            table=table,
        )
    ]
    own = {"users": "id, email", "letters": "id, email", "orders": "id, price", "operations": "id, amount"}[table]
    fresh = {
        "users": "gen_random_uuid(), 'copy-' || email",
        "letters": "gen_random_uuid(), email",
        "orders": "gen_random_uuid(), price",
        "operations": "gen_random_uuid(), amount",
    }[table]
    [(original,)] = rows(stack, service, f"select id from {table} where idempotency_key = :key", key=key)
    copies = f"idempotency_key = '{key}' and id <> '{original}'"
    with changed(stack, service, unprotected, f"delete from {table} where {copies}; {protected}"):
        columns = ", ".join(others)
        with database(stack, service) as connection:
            connection.execute(
                text(
                    f"insert into {table} ({own}, {columns}) select {fresh}, {columns} from {table} "
                    f"where idempotency_key = :key"
                ),
                {"key": key},
            )
        report = nameko_hw(stack, "audit", "--patience", "0.1")
        assert f"VIOLATION  {table}: the Idempotency-Key {key!r} has more than one effect" in report.stdout
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
        assert "clean" in audit(stack, "--within", "0.001")
        for options in (("--since", before.isoformat()), ("--within", "3600")):
            assert nameko_hw(stack, "audit", *options, "--patience", "0").returncode == 1


def test_a_window_that_leaves_gaps_is_refused(stack: Stack):
    for options, least in (
        (("--within", "60", "--older-than", "60"), 60),
        (("--within", "90", "--older-than", "60", "--every", "20"), 100),
    ):
        refused = nameko_hw(stack, "audit", *options)
        assert refused.returncode == 1
        assert refused.stderr.strip() == (
            f"nameko-hw: --within: should be above {least}, which is --older-than and twice --every"
        )


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--since", "yesterday", "is not a time"),
        ("--older-than", "-1", "is not a number of seconds"),
        ("--patience", "long", "is not a number of seconds"),
    ],
)
def test_a_wrong_option_is_named(stack: Stack, option: str, value: str, says: str):
    refused = nameko_hw(stack, "audit", option, value)
    assert refused.returncode == 2
    assert says in refused.stderr and option in refused.stderr and "Traceback" not in refused.stderr


def test_a_database_that_is_away_is_said_without_a_traceback(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        stack, "settings", stack.settings | {"BILLING_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:9/billing"}
    )
    refused = nameko_hw(stack, "audit")
    assert refused.returncode == 1
    assert refused.stderr.startswith("nameko-hw: a database does not answer") and "secret" not in refused.stderr
