"""Clients that keep the system busy, and remember what they sent and what it was answered.

Most send again what was not answered, under the same Idempotency-Key. The keyless ones cannot: they send each request
once, with an amount that no other request of that user has, so that what came of it can be found.
"""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import requests

from tests.client import Api, new_email

RETRY_PAUSE_S = 0.1
GIVE_UP_S = 90
WAIT_S = 2  # half of the orders prefer to wait so long for their outcome
ANSWERS = (200, 201, 202, 402, 404)
DEPOSIT = 1000  # at the least
TOO_MUCH = 10**9  # a price that nobody can pay


@dataclass
class Sent:
    """An order, a deposit or a withdrawal as it was asked for, and the last answer; `id` is that of an order."""

    kind: str
    user_id: str
    amount: int
    key: str | None
    status: int | str = "not answered"
    id: str | None = None


class Load:
    """Clients in threads: each makes users, moves money and places orders until it is told to stop.

    A user may still be `pending` when its first orders come: create the user, order at once.
    Each client waits for `pause_s` before what it does next, so that a test which only needs work to go on leaves the
    processor to it.
    """

    def __init__(
        self,
        url: str,
        clients: int,
        seed: int = 0,
        patient: bool = True,
        keyless: int = 0,
        pause_s: float = 0.0,
    ) -> None:
        self.url = url
        self.pause_s = pause_s
        self.patient = patient  # send again what failed; else a failure is only counted
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []
        self.sent: list[Sent] = []
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(f"{seed} {number}"), number < keyless))
            for number in range(clients + keyless)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, dice: random.Random, is_keyless: bool) -> None:
        numbers = itertools.count(1)
        with Api(self.url) as api:
            while not self._stop.is_set():
                user = self._send(api, "/users", {"name": "Ada", "email": new_email()}, str(uuid4()))
                for _ in range(dice.randint(5, 15)):
                    if user is None or self._stop.wait(self.pause_s):
                        break
                    self._act(api, dice, user["id"], numbers if is_keyless else None)

    def _act(self, api: Api, dice: random.Random, user_id: str, numbers: Iterator[int] | None) -> None:
        kind = dice.choices(["deposit", "withdraw", "order", "look"], [3, 1, 6, 1])[0]
        if kind == "look":
            self._send(api, f"/orders?user_id={user_id}", None, None)
            return
        if numbers is None:
            sent = Sent(kind, user_id, dice.randint(1, 500), str(uuid4()))
        else:
            more = {"deposit": DEPOSIT, "order": TOO_MUCH if dice.random() < 0.1 else 0}.get(kind, 0)
            sent = Sent(kind, user_id, next(numbers) + more, None)
        wait_s = WAIT_S if kind == "order" and dice.random() < 0.5 else None
        path, field = ("/orders", "price") if kind == "order" else (f"/billing/accounts/{user_id}/{kind}", "amount")
        answer = self._send(
            api, path, {field: sent.amount} | ({"user_id": user_id} if kind == "order" else {}), sent.key, sent, wait_s
        )
        if kind == "order" and answer:
            sent.id = answer["id"]
            self._count(answer["status"])
        with self._lock:
            self.sent.append(sent)

    def _send(
        self, api: Api, path: str, body: Any, key: str | None, sent: Sent | None = None, wait_s: int | None = None
    ) -> Any:
        """Send one request until it is answered for good; its answer, or None where there was none in time.

        Without a key, what changes something is sent once.
        """
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            answer, status = self._ask(api, path, body, key, wait_s)
            if sent is not None:
                sent.status = status
            if answer is not None and status in ANSWERS:
                if answer.headers.get("Idempotent-Replayed"):
                    self._count("replayed")
                return answer.json() if answer.ok else None
            self._count(f"answered {status}")
            is_over = not self.patient or time.monotonic() > deadline
            if status == 500 or is_over:
                with self._lock:
                    self.failures.append(f"{path}: {status} {answer.text if answer is not None else ''}")
            if is_over or (body and key is None):
                return None
            self._count("retried")
            time.sleep(RETRY_PAUSE_S)

    def _ask(
        self, api: Api, path: str, body: Any, key: str | None, wait_s: int | None
    ) -> tuple[requests.Response | None, int | str]:
        started = time.monotonic()
        try:
            answer = api.post(path, body, key, wait_s) if body else api.get(path)
            return answer, answer.status_code
        except requests.RequestException as error:
            return None, type(error).__name__
        finally:
            self._count("requests")
            with self._lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counted[what] += 1
