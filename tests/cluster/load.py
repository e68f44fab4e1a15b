"""Orders, one after the other from several clients, and the books they should leave behind."""

import time
from collections import Counter
from itertools import count, pairwise
from threading import Event, Thread
from uuid import uuid4

import requests

from services.local.net import wait_for
from tests.client import Api

CLIENTS = 3
MONEY = 10**6
SETTLED_S = 120
ANSWERED_S = 180
PAUSE_S = 0.05


class Client:
    """Orders for a user of its own until it is told to stop; an order without an answer is sent again with its key."""

    def __init__(self, url: str) -> None:
        self.api = Api(url)
        self.user_id = self.api.new_user(balance=MONEY)["id"]
        self.orders: dict[str, int] = {}  # order id -> price
        self.settled_at: list[float] = []  # when an answer told the final status
        self.failures: list[str] = []
        self.stopping = Event()
        self.thread = Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for number in count(1):
            price = 2 * MONEY if number % 10 == 0 else 1 + number % 7  # each tenth is too much
            self._order(price, str(uuid4()))
            if self.stopping.wait(PAUSE_S):
                return

    def _order(self, price: int, key: str) -> None:
        while True:
            try:
                answer = self.api.order(self.user_id, price, key)
                if answer.status_code in (201, 202):
                    self.orders[answer.json()["id"]] = price
                    if answer.status_code == 201:
                        self.settled_at.append(time.monotonic())
                    return
                again = "Retry-After" if "Retry-After" in answer.headers else "no Retry-After"
                self.failures.append(f"{answer.status_code}, {again}: {answer.text}")
            except requests.RequestException as error:
                self.failures.append(repr(error))
            self.stopping.wait(1)

    def check(self) -> None:
        """The balance, the orders and the letters agree with what this client sent."""
        wait_for(lambda: not self._pending(), SETTLED_S, "every order to be settled")
        orders = {one["id"]: one for one in self.api.items(f"/orders?user_id={self.user_id}")}
        assert {id_: one["price"] for id_, one in orders.items()} == self.orders
        paid = {id_ for id_, one in orders.items() if one["status"] == "paid"}
        assert paid == {id_ for id_, price in self.orders.items() if price < MONEY}
        assert self.api.balance(self.user_id) == MONEY - sum(self.orders[id_] for id_ in paid)
        letters = Counter((one["order_id"], one["kind"]) for one in self.api.letters(self.user_id, len(orders)))
        assert letters == Counter((id_, "order_paid" if id_ in paid else "order_rejected") for id_ in orders)

    def _pending(self) -> bool:
        return any(one["status"] == "pending" for one in self.api.items(f"/orders?user_id={self.user_id}"))


class Load:
    """Several clients at once: `with Load(url) as load:`. At the end the books must agree."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clients: list[Client] = []

    @property
    def failures(self) -> list[str]:
        return [failure for client in self.clients for failure in client.failures]

    @property
    def wrong(self) -> list[str]:
        """The failures that a client should not see when a server is away: all but 503 with Retry-After."""
        return [failure for failure in self.failures if not failure.startswith("503, Retry-After:")]

    def longest_pause_s(self) -> float:
        """Return the longest time in which no answer told the final status of its order."""
        times = sorted(one for client in self.clients for one in client.settled_at)
        return max(after - before for before, after in pairwise(times))

    @property
    def orders(self) -> int:
        return sum(len(client.orders) for client in self.clients)

    def goes_on(self, more: int = 30) -> None:
        """Wait until so many more orders have been answered."""
        wanted = self.orders + more
        wait_for(lambda: self.orders >= wanted, ANSWERED_S, f"{more} more orders")

    def __enter__(self) -> "Load":
        for _ in range(CLIENTS):
            self.clients.append(Client(self.url))
        self.goes_on(CLIENTS)
        return self

    def __exit__(self, raised: object, *_: object) -> None:
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.thread.join()
        if not raised:
            for client in self.clients:
                client.check()
        for client in self.clients:
            client.api.session.close()
