"""The scenario of the assignment: eight steps, played over HTTP and printed as they happen.

`make demo` plays it against embedded mode, the tests against every mode, and `helm test` inside the cluster:

    python -m services.scenario http://127.0.0.1:8000    # one base URL for all services
    ADDRESSES='{"users": "http://...", ...}' python -m services.scenario    # an address for each service

With AUTH=jwt, the environment variable TOKEN is the token of an admin.
"""

import argparse
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import requests

from services.shop import ROUTES, SERVICES

END_S = 20  # a user's account, the outcome of an order, its letter
PAUSE_S = 0.05
ANSWER_S = 15

Json = dict[str, Any]
Step = tuple[str, Callable[[], None]]

flushed = functools.partial(print, flush=True)  # a line is seen at once, also in a file or a pipe


class Unexpected(Exception):
    """A step did not end as it should; the message names what was expected."""


class Scenario:
    """The steps, in order, as a client of the running system takes them."""

    def __init__(
        self, where: str | Mapping[str, str], say: Callable[[str], object] = flushed, token: str | None = None
    ) -> None:
        """`where` is the base URL of all services, or the address of each; `say` takes each line of the output.

        `token` is sent with each request: that of an admin, as the user whom the scenario creates has none.
        """
        self.addresses = dict.fromkeys(SERVICES, where) if isinstance(where, str) else where
        self.say = say
        self.session = requests.Session()
        self.session.headers.update({"Authorization": f"Bearer {token}"} if token else {})
        self.user: Json = {}
        self.order: Json = {}

    def steps(self) -> list[Step]:
        """Return the eight steps: the title of each, and what to do."""
        return [
            ("Create a user; billing opens an account", self.create_user),
            ("Deposit money", self.deposit),
            ("Place an order that the account can pay", self.place_paid_order),
            ("See that the money was taken", lambda: self.balance_is(700)),
            ("See the letter of happiness", lambda: self.letter_is("order_paid")),
            ("Place an order that the account cannot pay", self.place_rejected_order),
            ("See that the balance has not changed", lambda: self.balance_is(700)),
            ("See the letter of grief", lambda: self.letter_is("order_rejected")),
        ]

    def play(self) -> int:
        """Play the steps up to the first that fails, and print how many hold; return 0 if all do, else 1."""
        steps = self.steps()
        held = 0
        for number, (title, step) in enumerate(steps, start=1):
            self.say(f"\n{number}. {title}")
            try:
                step()
            except Unexpected as error:
                self.say(f"   FAILED: {error}")
                break  # each step builds on those before it
            held += 1
            self.say("   holds")
        self.say(f"\n{'PASSED' if held == len(steps) else 'FAILED'}: {held} of {len(steps)} steps hold")
        return 0 if held == len(steps) else 1

    def create_user(self) -> None:
        self.user = self.create("/users", {"name": "Ada", "email": f"ada-{uuid4()}@example.com"}, 201)
        self.expect(self.user["status"] == "active", "the user is active")
        self.balance_is(0)

    def deposit(self) -> None:
        self.post(f"/billing/accounts/{self.user['id']}/deposit", {"amount": 1000}, (200,))
        self.balance_is(1000)

    def place_paid_order(self) -> None:
        self.order = self.create("/orders", {"user_id": self.user["id"], "price": 300}, 201, 202)
        self.expect(self.order["status"] == "paid", "the order is paid")

    def place_rejected_order(self) -> None:
        self.order = self.create("/orders", {"user_id": self.user["id"], "price": 701}, 201, 202)
        self.expect(self.order["status"] == "rejected", "the order is rejected")
        self.expect(self.order["reason"] == "insufficient_funds", "for lack of money")

    def balance_is(self, balance: int) -> None:
        account = self.get(f"/billing/accounts/{self.user['id']}")
        self.expect(account["balance"] == balance, f"the balance is {balance}")

    def letter_is(self, kind: str) -> None:
        """Wait for the letter of the order, which comes after the order has ended."""
        path = f"/notifications?user_id={self.user['id']}"
        letters = self.letters_in(self.ask(path, lambda page: any(one["email"] for one in self.letters_in(page))))
        self.expect([letter["kind"] for letter in letters] == [kind], f"there is one letter of the order, {kind}")
        self.expect(letters[0]["email"] == self.user["email"], "to the user's address")

    def letters_in(self, page: Json) -> list[Json]:
        """Return the letters of the order that was placed last."""
        return [letter for letter in page["items"] if letter["order_id"] == self.order["id"]]

    def create(self, path: str, body: Json, *statuses: int) -> Json:
        """Create a user or an order, and return it as it ends; what is pending at first is asked for."""
        created = self.post(path, body, statuses)
        if created["status"] != "pending":
            return created
        return self.ask(f"{path}/{created['id']}", lambda now: now["status"] != "pending")

    def ask(self, path: str, has_come: Callable[[Json], bool]) -> Json:
        """Ask until what is waited for has come, for END_S seconds at most; print only the last request and answer."""
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            answer = self.session.get(self.url(path), timeout=ANSWER_S)
            if answer.ok and has_come(answer.json()):
                break
            time.sleep(PAUSE_S)
        return self.get(path)

    def post(self, path: str, body: Json, statuses: tuple[int, ...]) -> Json:
        return self.show("POST", path, statuses, json=body, headers={"Idempotency-Key": str(uuid4())})

    def get(self, path: str) -> Json:
        return self.show("GET", path, (200,))

    def show(self, method: str, path: str, statuses: tuple[int, ...], **request: Any) -> Json:
        """Send a request, print it and its answer, and return the body of the answer."""
        self.say(f"   > {method} {path}")
        if "json" in request:
            self.say(f"     {json.dumps(request['json'])}")
        answer = self.session.request(method, self.url(path), timeout=ANSWER_S, **request)
        body: Json = answer.json()
        self.say(f"   < {answer.status_code} {answer.reason}")
        for line in json.dumps(body, indent=2).splitlines():
            self.say(f"     {line}")
        self.expect(answer.status_code in statuses, f"the answer is {' or '.join(map(str, statuses))}")
        return body

    def url(self, path: str) -> str:
        """Return the URL of `path` at the service that serves it."""
        first = re.split("[/?]", path)[1]
        return self.addresses[ROUTES[first]] + path

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise Unexpected(f"expected that {what}")


def main() -> None:
    """Play the scenario against a system that runs; exit 0 only if all eight steps hold."""
    parser = argparse.ArgumentParser(prog="python -m services.scenario", description=main.__doc__)
    parser.add_argument("url", nargs="?", help="base URL (default: $ADDRESSES, the URL of each service in JSON)")
    url = parser.parse_args().url
    addresses = os.environ.get("ADDRESSES")
    if not url and not addresses:
        parser.error("neither a base URL nor ADDRESSES is given")
    try:
        sys.exit(Scenario(url or json.loads(addresses or ""), token=os.environ.get("TOKEN")).play())
    except requests.RequestException as error:
        sys.exit(f"nameko-hw: {error}")


if __name__ == "__main__":
    main()
