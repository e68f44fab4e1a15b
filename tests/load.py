"""Clients that keep the system busy: they send again what was not answered, under the same Idempotency-Key."""
import random
import threading
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import requests

from tests.client import Api, new_email

RETRY_PAUSE_S = 0.1
GIVE_UP_S = 90


class Load:
    """Clients in threads: each makes users, moves money and places orders until it is told to stop."""

    def __init__(self, url: str, clients: int, seed: int = 0, patient: bool = True) -> None:
        self.url = url
        self.patient = patient  # send again what failed; else a failure is only counted
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(f"{seed} {number}"),))
            for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, dice: random.Random) -> None:
        with Api(self.url) as api:
            while not self._stop.is_set():
                user = self._send(api, "/users", {"name": "Ada", "email": new_email()})
                for _ in range(dice.randint(5, 15)):
                    if user is None or self._stop.is_set():
                        break
                    self._act(api, dice, user["id"])

    def _act(self, api: Api, dice: random.Random, user_id: str) -> None:
        kind = dice.choices(["deposit", "withdraw", "order", "look"], [3, 1, 6, 1])[0]
        amount = dice.randint(1, 500)
        if kind == "order":
            order = self._send(api, "/orders", {"user_id": user_id, "price": amount})
            if order:
                self._count(order["status"])
        elif kind == "look":
            self._send(api, f"/orders?user_id={user_id}", None)
        else:
            self._send(api, f"/billing/accounts/{user_id}/{kind}", {"amount": amount})

    def _send(self, api: Api, path: str, body: Any) -> Any:
        """Send one request until it is answered for good; its answer, or None where there was none in time."""
        key = str(uuid4())
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            started = time.monotonic()
            try:
                answer = api.post(path, body, key) if body else api.get(path)
                status: int | str = answer.status_code
            except requests.RequestException as error:
                answer, status = None, type(error).__name__
            with self._lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            self._count("requests")
            if answer is not None and answer.status_code in (200, 201, 202, 402, 404):
                if answer.headers.get("Idempotent-Replayed"):
                    self._count("replayed")
                return answer.json() if answer.ok else None
            self._count(f"answered {status}")
            if not self.patient or time.monotonic() > deadline:
                with self._lock:
                    self.failures.append(f"{path}: {status} {answer.text if answer is not None else ''}")
                return None
            self._count("retried")
            time.sleep(RETRY_PAUSE_S)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counted[what] += 1
