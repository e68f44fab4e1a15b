"""The eight steps of the scenario, played over HTTP against embedded mode and printed as they happen."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from services.local.net import free_port, wait_for
from services.local.supervisor import dies_with_parent, flushed

START_S = 45
LETTER_S = 10
ANSWER_S = 15

Answer = dict[str, Any]


class Unexpected(Exception):
    """A step did not end as it should; the message says what was expected."""


def play(folder: Path) -> int:
    """Start embedded mode on a free port, play the scenario, stop; 0 only if all eight steps hold."""
    port = free_port()
    server = subprocess.Popen(
        [*dies_with_parent("INT"), sys.executable, "-m", "services.ops.cli", "run", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NAMEKO_HW_FOLDER": str(folder), "LOG_LEVEL": "WARNING"},
        start_new_session=True,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        wait_for(lambda: ready(server, base), START_S, "embedded mode to start")
        return Scenario(base).play()
    except (TimeoutError, Unexpected, requests.RequestException) as error:
        print(f"nameko-hw: {error}", file=sys.stderr)
        return 1
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def ready(server: "subprocess.Popen[bytes]", base: str) -> bool:
    if server.poll() is not None:
        raise Unexpected("embedded mode did not start; what went wrong is said above")
    try:
        return requests.get(f"{base}/health/ready", timeout=5).ok
    except requests.RequestException:
        return False


class Scenario:
    """The steps, in order, against the system at `base`."""

    def __init__(self, base: str, say: Callable[[str], object] = flushed) -> None:
        self.base = base
        self.say = say
        self.session = requests.Session()
        self.user: Answer = {}
        self.order: Answer = {}

    def play(self) -> int:
        """Play all steps and say the verdict; 0 if all of them hold, else 1."""
        steps: list[tuple[str, Callable[[], None]]] = [
            ("Create a user; billing opens an account", self.create_user),
            ("Deposit money", self.deposit),
            ("Place an order that the account can pay", self.place_paid_order),
            ("See that the money was taken", lambda: self.balance_is(700)),
            ("See the letter of happiness", lambda: self.letter_is("order_paid")),
            ("Place an order that the account cannot pay", self.place_rejected_order),
            ("See that the balance has not changed", lambda: self.balance_is(700)),
            ("See the letter of grief", lambda: self.letter_is("order_rejected")),
        ]
        held = 0
        for number, (title, step) in enumerate(steps, start=1):
            self.say(f"\n{number}. {title}")
            try:
                step()
            except Unexpected as error:
                self.say(f"   FAILED: {error}")
                break  # what follows stands on it
            held += 1
            self.say("   holds")
        self.say(f"\n{'PASSED' if held == len(steps) else 'FAILED'}: {held} of {len(steps)} steps hold")
        return 0 if held == len(steps) else 1

    def create_user(self) -> None:
        self.user = self.post("/users", {"name": "Ada", "email": f"ada-{uuid4()}@example.com"}, 201)
        self.expect(self.user["status"] == "active", "the user is active")
        self.balance_is(0)

    def deposit(self) -> None:
        self.post(f"/billing/accounts/{self.user['id']}/deposit", {"amount": 1000}, 200)
        self.balance_is(1000)

    def place_paid_order(self) -> None:
        self.order = self.post("/orders", {"user_id": self.user["id"], "price": 300}, 201)
        self.expect(self.order["status"] == "paid", "the order is paid")

    def place_rejected_order(self) -> None:
        self.order = self.post("/orders", {"user_id": self.user["id"], "price": 701}, 201)
        self.expect(self.order["status"] == "rejected", "the order is rejected")
        self.expect(self.order["reason"] == "insufficient_funds", "for lack of money")

    def balance_is(self, balance: int) -> None:
        account = self.get(f"/billing/accounts/{self.user['id']}")
        self.expect(account["balance"] == balance, f"the balance is {balance}")

    def letter_is(self, kind: str) -> None:
        """Look for the order's letter until it is there: it comes through the broker, after the answer."""
        path = f"/notifications?user_id={self.user['id']}"
        deadline = time.monotonic() + LETTER_S
        while not (letters := self.letters(path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.get(path)
        self.expect([letter["kind"] for letter in letters] == [kind], f"there is one letter of the order, {kind}")
        self.expect(letters[0]["email"] == self.user["email"], "to the user's address")

    def letters(self, path: str) -> list[Answer]:
        items = self.session.get(self.base + path, timeout=ANSWER_S).json()["items"]
        return [letter for letter in items if letter["order_id"] == self.order["id"]]

    def post(self, path: str, body: Answer, status: int) -> Answer:
        headers = {"Idempotency-Key": str(uuid4())}
        return self.show("POST", path, status, json=body, headers=headers)

    def get(self, path: str) -> Answer:
        return self.show("GET", path, 200)

    def show(self, method: str, path: str, status: int, **request: Any) -> Answer:
        """Send a request, print it and its answer, and give the answer's body."""
        self.say(f"   > {method} {path}")
        if "json" in request:
            self.say(f"     {json.dumps(request['json'])}")
        answer = self.session.request(method, self.base + path, timeout=ANSWER_S, **request)
        body: Answer = answer.json()
        self.say(f"   < {answer.status_code} {answer.reason}")
        for line in json.dumps(body, indent=2).splitlines():
            self.say(f"     {line}")
        self.expect(answer.status_code == status, f"the answer is {status}")
        return body

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise Unexpected(f"expected that {what}")
