"""The rules of the four services, without a database, a broker or a clock."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.billing.domain import CASH, REVENUE, Money, OperationKind, change, entries
from services.contracts import MAX_AMOUNT, OrderPaid, OrderRejected, Outcome, Payment
from services.notifications.domain import NewMessage, money, paid_letter, rejected_letter
from services.orders.domain import OrderReason, OrderStatus, OrderView, apply_outcome, event_for, payment_for
from services.users.domain import NewUser

USER = uuid4()
amounts = st.integers(min_value=1, max_value=MAX_AMOUNT)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first example reads our sources


def order(status: OrderStatus, reason: OrderReason | None = None) -> OrderView:
    return OrderView(id=uuid4(), user_id=USER, price=300, status=status, reason=reason, created_at=datetime.now(UTC))


@unhurried
@given(st.lists(st.tuples(st.sampled_from(OperationKind), amounts), max_size=20))
def test_the_books_always_sum_to_zero(operations):
    books: dict[str, int] = {}
    for kind, amount in operations:
        debit, credit = entries(kind, USER)
        books[debit] = books.get(debit, 0) - amount
        books[credit] = books.get(credit, 0) + amount
    assert sum(books.values()) == 0
    assert books.get(str(USER), 0) == sum(change(kind, amount) for kind, amount in operations)


def test_each_kind_of_operation_has_its_ledger_accounts():
    assert entries(OperationKind.DEPOSIT, USER) == (CASH, str(USER))
    assert entries(OperationKind.WITHDRAWAL, USER) == (str(USER), CASH)
    assert entries(OperationKind.PAYMENT, USER) == (str(USER), REVENUE)


@pytest.mark.parametrize(
    "outcome, expected",
    [
        (Outcome.ACCEPTED, (OrderStatus.PAID, None)),
        (Outcome.INSUFFICIENT_FUNDS, (OrderStatus.REJECTED, OrderReason.INSUFFICIENT_FUNDS)),
        (Outcome.REFUSED, (OrderStatus.REJECTED, OrderReason.ACCOUNT_NOT_FOUND)),
        (Outcome.MISMATCH, (OrderStatus.REJECTED, OrderReason.OPERATION_MISMATCH)),
        (Outcome.ACCOUNT_NOT_FOUND, (OrderStatus.PENDING, None)),  # perhaps it is not there yet
        (Outcome.BUSY, (OrderStatus.PENDING, None)),
    ],
)
def test_an_outcome_decides_the_order(outcome, expected):
    pending = order(OrderStatus.PENDING)
    decided = apply_outcome(pending, outcome)
    assert (decided.status, decided.reason) == expected
    assert decided.model_copy(update={"status": OrderStatus.PENDING, "reason": None}) == pending


def test_the_id_of_an_order_makes_its_payment_one():
    pending = order(OrderStatus.PENDING)
    assert Payment(**payment_for(pending)) == Payment(operation_id=pending.id, user_id=USER, amount=300)


def test_only_orders_that_ended_with_or_for_want_of_money_are_announced():
    assert isinstance(event_for(order(OrderStatus.PAID)), OrderPaid)
    assert isinstance(event_for(order(OrderStatus.REJECTED, OrderReason.INSUFFICIENT_FUNDS)), OrderRejected)
    assert event_for(order(OrderStatus.REJECTED, OrderReason.ACCOUNT_NOT_FOUND)) is None
    assert event_for(order(OrderStatus.PENDING)) is None


def test_letters_name_the_order_and_its_price():
    paid = OrderPaid(order_id=uuid4(), user_id=USER, price=123456)
    rejected = OrderRejected(order_id=uuid4(), user_id=USER, price=5)
    assert str(paid.order_id) in paid_letter(paid)[1] and "1234.56" in paid_letter(paid)[1]
    assert str(rejected.order_id) in rejected_letter(rejected)[1] and "0.05" in rejected_letter(rejected)[1]
    assert paid_letter(paid)[0] != rejected_letter(rejected)[0]


@unhurried
@given(amounts)
def test_money_is_written_without_loss(amount):
    units, cents = money(amount).split(".")
    assert int(units) * 100 + int(cents) == amount


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1, 10**30, 10.5, 10.0, "10", True, None, [], float("inf")])
def test_an_amount_is_a_whole_number_in_range(amount):
    with pytest.raises(ValidationError):
        Money(amount=amount)


@pytest.mark.parametrize("amount", [1, MAX_AMOUNT])
def test_the_bounds_of_an_amount_are_in(amount):
    assert Money(amount=amount).amount == amount


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@@example.com",
        "ada @example.com",
        "ada@example.com\n",
        "ada@-example.com",
        "ada@example..com",
        "a" * 65 + "@example.com",
        "ada@" + "a." * 130 + "com",
        "ada@exa\0mple.com",
    ],
)
def test_what_is_no_address_is_refused(email):
    with pytest.raises(ValidationError):
        NewUser(name="Ada", email=email)


@pytest.mark.parametrize("email", ["ada@example.com", "A.da+tag@sub.Example.co", "o'hara@example.test", "1@2.io"])
def test_what_is_an_address_is_taken(email):
    assert NewUser(name="Ada", email=email).email == email


@pytest.mark.parametrize("name", ["", " ", "\t\n", "a\0b", "a" * 201, "\ud800", 5, None])
def test_a_name_is_something_to_see(name):
    with pytest.raises(ValidationError):
        NewUser(name=name, email="ada@example.com")


def test_a_message_needs_somebody_to_go_to():
    with pytest.raises(ValidationError, match="user_id or email"):
        NewMessage(subject="Hello", body="")
    assert NewMessage(subject="Hello", body="", email="ada@example.com").user_id is None
    assert NewMessage(subject="Hello", body="", user_id=USER).email is None


@pytest.mark.parametrize("fact", [OrderPaid, OrderRejected])
def test_an_event_survives_the_wire_and_never_changes(fact):
    event = fact(order_id=uuid4(), user_id=USER, price=1)
    assert fact.model_validate(event.model_dump(mode="json")) == event
    with pytest.raises(ValidationError):
        event.price = 2
