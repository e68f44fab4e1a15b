"""The eight steps of services/scenario.py, played by a client that was generated from docs/openapi.json.

Its types are checked by mypy. Each step prints its title once it holds:

    python tests/clients/play.py http://127.0.0.1:8000
"""

import sys
import time
from http import HTTPStatus
from typing import TypeVar
from uuid import UUID, uuid4

from nameko_hw_client import AuthenticatedClient
from nameko_hw_client.api.billing import deposit, list_operations, show_account, withdraw
from nameko_hw_client.api.notifications import create_message, list_letters
from nameko_hw_client.api.orders import create_order, get_order, list_orders
from nameko_hw_client.api.users import create_user, get_user
from nameko_hw_client.models import (
    Letter,
    LetterKind,
    Money,
    NewMessage,
    NewOrder,
    NewUser,
    OperationKind,
    Order,
    OrderReason,
    OrderStatus,
    Problem,
    User,
    UserStatus,
)
from nameko_hw_client.types import Response

END_S = 20.0
WAIT = "wait=3"
Good = TypeVar("Good")


class Player:
    """A client, and what it has created."""

    def __init__(self, url: str) -> None:
        self.client = AuthenticatedClient(base_url=url, token="any")  # which nobody looks at while AUTH is off

    def play(self) -> None:
        """Play the steps up to the first that fails."""
        user = self.create_user()
        self.balance_is(user.id, 0)
        holds("Create a user; billing opens an account")
        receipt = good(
            deposit.sync_detailed(user.id, client=self.client, body=Money(amount=1000), idempotency_key=key())
        )
        assert receipt.balance == 1000
        self.balance_is(user.id, 1000)
        holds("Deposit money")
        paid = self.place(user, 300)
        assert (paid.status, paid.reason) == (OrderStatus.PAID, None)
        holds("Place an order that the account can pay")
        self.balance_is(user.id, 700)
        holds("See that the money was taken")
        self.letter_is(user, paid, LetterKind.ORDER_PAID)
        holds("See the letter of happiness")
        rejected = self.place(user, 701)
        assert (rejected.status, rejected.reason) == (OrderStatus.REJECTED, OrderReason.INSUFFICIENT_FUNDS)
        holds("Place an order that the account cannot pay")
        self.balance_is(user.id, 700)
        holds("See that the balance has not changed")
        self.letter_is(user, rejected, LetterKind.ORDER_REJECTED)
        holds("See the letter of grief")
        self.look_back(user, [rejected, paid])
        self.be_refused(user)

    def create_user(self) -> User:
        wanted = NewUser(name="Ada", email=f"ada-{uuid4()}@example.com")
        user = good(create_user.sync_detailed(client=self.client, body=wanted, idempotency_key=key(), prefer=WAIT))
        deadline = time.monotonic() + END_S
        while user.status == UserStatus.PENDING and time.monotonic() < deadline:
            user = good(get_user.sync_detailed(user.id, client=self.client, prefer=WAIT))
        assert (user.status, user.email) == (UserStatus.ACTIVE, wanted.email)
        return user

    def place(self, user: User, price: int) -> Order:
        """Place an order and return it as it ends; the server waits, and what is pending all the same is asked for."""
        wanted = NewOrder(user_id=user.id, price=price)
        answer = create_order.sync_detailed(client=self.client, body=wanted, idempotency_key=key(), prefer=WAIT)
        order = good(answer)
        assert (answer.status_code == HTTPStatus.ACCEPTED) == (order.status == OrderStatus.PENDING)
        deadline = time.monotonic() + END_S
        while order.status == OrderStatus.PENDING and time.monotonic() < deadline:
            order = good(get_order.sync_detailed(order.id, client=self.client, prefer=WAIT))
        return order

    def balance_is(self, user_id: UUID, balance: int) -> None:
        assert good(show_account.sync_detailed(user_id, client=self.client)).balance == balance

    def letter_is(self, user: User, order: Order, kind: LetterKind) -> None:
        """Wait for the letter of the order, which comes after the order has ended."""
        deadline = time.monotonic() + END_S
        while not (letters := self.letters(user, order)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [letter.kind for letter in letters] == [kind]

    def letters(self, user: User, order: Order) -> list[Letter]:
        page = good(list_letters.sync_detailed(client=self.client, user_id=user.id))
        return [one for one in page.items if one.order_id == order.id and one.email == user.email]

    def look_back(self, user: User, orders: list[Order]) -> None:
        """See the same orders and money in the lists, and use what the steps do not."""
        listed = good(list_orders.sync_detailed(client=self.client, user_id=user.id, limit=2))
        assert (listed.items, listed.next_) == (orders, None)
        receipt = good(
            withdraw.sync_detailed(user.id, client=self.client, body=Money(amount=700), idempotency_key=key())
        )
        assert receipt.balance == 0
        lines = good(list_operations.sync_detailed(user.id, client=self.client)).items
        assert [line.kind for line in lines] == [OperationKind.WITHDRAWAL, OperationKind.PAYMENT, OperationKind.DEPOSIT]
        message = NewMessage(subject="Hello", body="Good to see you.", user_id=user.id)
        letter = good(create_message.sync_detailed(client=self.client, body=message, idempotency_key=key()))
        assert (letter.kind, letter.order_id) == (LetterKind.MESSAGE, None)

    def be_refused(self, user: User) -> None:
        """See that errors are typed too, and that a request without what is required is none."""
        refused = withdraw.sync(user.id, client=self.client, body=Money(amount=1))
        assert isinstance(refused, Problem) and refused.status == 402 and refused.type_.endswith("insufficient-funds")
        missing = get_user.sync(uuid4(), client=self.client)
        assert isinstance(missing, Problem) and missing.type_.endswith("user-not-found")
        try:
            NewMessage(user_id=user.id)  # type: ignore[call-arg]
        except TypeError:
            return
        raise AssertionError("a message without a subject was possible")


def good(answer: Response[Good | Problem]) -> Good:
    """Return what a request was answered, unless that is a problem."""
    parsed = answer.parsed
    assert parsed is not None and not isinstance(parsed, Problem), answer.content
    return parsed


def key() -> str:
    return str(uuid4())


def holds(title: str) -> None:
    print(title, flush=True)


if __name__ == "__main__":
    Player(sys.argv[1]).play()
