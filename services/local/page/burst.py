"""A hundred orders at once, each sent twice, by clients that behave: they repeat what got no answer, under its key."""

import http.client
import json
import time
from collections import Counter
from contextlib import closing
from typing import Any
from uuid import uuid4

import eventlet

from services.local import tokens
from services.local.net import HOST

ORDERS = 100
TIMES = 2
PRICE = 100
PATIENCE_S = 90.0  # longer than any recovery takes
AGAIN_S = 0.5
ANSWER_S = 15.0
WAIT = {"Prefer": "wait=5"}

Json = Any


class GaveUp(Exception):
    """There was no usable answer for PATIENCE_S."""


class Burst:
    """Places the orders at the gateway on `port`, and counts what its clients got. One burst at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_running = False
        self._begin()

    def _begin(self) -> None:
        self.user_id: str | None = None
        self.answers: Counter[str] = Counter()  # by the status, or what there was instead
        self.ended: Counter[str] = Counter()  # orders, by how they ended
        self.orders: dict[str, set[str]] = {}  # the ids that were answered under each key
        self.failed = ""
        token = tokens.admins_token()
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    def start(self) -> None:
        """Start a burst, unless one is under way."""
        if not self.is_running:
            self.is_running = True
            self._begin()
            eventlet.spawn(self._run)

    def view(self) -> Json:
        return {
            "is_running": self.is_running,
            "user_id": self.user_id,
            "requests": ORDERS * TIMES,
            "answers": dict(self.answers),
            "ended": dict(self.ended),
            "orders": len(set().union(*self.orders.values())),
            "failed": self.failed,
        }

    def _run(self) -> None:
        try:
            user = self._until_done("POST", "/users", {"name": "Ada", "email": f"ada-{uuid4()}@example.com"})
            self.user_id = user["id"]
            self._ended(f"/users/{self.user_id}")
            self._until_done("POST", f"/billing/accounts/{self.user_id}/deposit", {"amount": ORDERS * PRICE})
            self.answers.clear()
            keys = [str(uuid4()) for _ in range(ORDERS)]
            clients = [eventlet.spawn(self._place, key) for key in keys for _ in range(TIMES)]
            for client in clients:
                client.wait()
        except (GaveUp, KeyError) as error:
            self.failed = str(error)
        finally:
            self.is_running = False

    def _place(self, key: str) -> None:
        try:
            order = self._until_done("POST", "/orders", {"user_id": self.user_id, "price": PRICE}, key)
            is_first = key not in self.orders
            self.orders.setdefault(key, set()).add(order["id"])
            if is_first:
                self.ended[self._ended(f"/orders/{order['id']}")["status"]] += 1
        except (GaveUp, KeyError):
            self.answers["gave up"] += 1

    def _ended(self, path: str) -> Json:
        """Return what is at `path` once it is no longer pending."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            status, body = self._send("GET", path, None, {**WAIT, **self._authorization})
            if status == 200 and body["status"] != "pending":
                return body
            eventlet.sleep(AGAIN_S)
        raise GaveUp(f"{path} stays pending")

    def _until_done(self, method: str, path: str, body: Json, key: str | None = None) -> Json:
        """Send a request until its answer says what became of it, always under the same key."""
        headers = {"Content-Type": "application/json", **self._authorization, "Idempotency-Key": key or str(uuid4())}
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            status, answer = self._send(method, path, body, headers)
            self.answers[str(status or "no answer")] += 1
            if 200 <= status < 300:
                return answer
            eventlet.sleep(AGAIN_S)
        raise GaveUp(f"{method} {path} was not answered")

    def _send(self, method: str, path: str, body: Json, headers: dict[str, str]) -> tuple[int, Json]:
        """Send a request; return the status, 0 without an answer, and the JSON of the body."""
        try:
            with closing(http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_S)) as connection:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                return answer.status, json.load(answer)
        except (OSError, ValueError, http.client.HTTPException):
            return 0, None
