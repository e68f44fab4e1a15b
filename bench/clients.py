"""Clients that place orders, and note when they sent each and when it was answered."""

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.local.net import HOST

ORDER_TIMEOUT_S = 15.0


@dataclass
class Sent:
    """An order as its client saw it; times are in seconds since 1970. `status` is 0 if there was no answer in time."""

    sent_at: float
    answered_at: float = 0.0
    status: int = 0
    id: str = ""


class Clients:
    """Closed loop: each of the clients sends its next order when it has the answer to the last one."""

    def __init__(self, port: int, users: Sequence[str], number: int) -> None:
        self.port = port
        self.users = users
        self.sent: list[Sent] = []
        self._left = threading.Semaphore(0)
        self._until = 0.0
        self._number = number

    def run(self, seconds: float = 0.0, orders: int = 0) -> list[Sent]:
        """Place orders for so long, or so many."""
        self._until = time.time() + seconds
        share = [orders // self._number + (one < orders % self._number) for one in range(self._number)]
        threads = [threading.Thread(target=self._client, args=(one, seconds > 0)) for one in share]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.sent

    def _client(self, orders: int, by_time: bool) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ORDER_TIMEOUT_S)
        while time.time() < self._until if by_time else orders:
            orders -= 1
            self.sent.append(place(connection, random.choice(self.users)))
        connection.close()


def place(connection: http.client.HTTPConnection, user_id: str, price: int = 1) -> Sent:
    """Place one order on a connection, which is closed if it fails."""
    sent = Sent(time.time())
    try:
        body = json.dumps({"user_id": user_id, "price": price})
        connection.request("POST", "/orders", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read()
        sent.answered_at, sent.status = time.time(), answer.status
        if answer.status < 300:
            sent.id = json.loads(raw)["id"]
    except (OSError, http.client.HTTPException):
        sent.answered_at = time.time()
        connection.close()
    return sent


class SteadyLoad:
    """Open loop: so many orders a second, each from a thread of its own, whatever becomes of the others."""

    def __init__(self, port: int, users: Sequence[str], per_second: int) -> None:
        self.port = port
        self.per_second = per_second
        self.users = users
        self.sent: list[Sent] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._clock = threading.Thread(target=self._run)

    def __enter__(self) -> "SteadyLoad":
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._clock.join()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        for number in itertools.count(1):
            thread = threading.Thread(target=self._place)
            thread.start()
            self._threads.append(thread)
            if self._stop.wait(max(began + number / self.per_second - time.monotonic(), 0)):
                return

    def _place(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ORDER_TIMEOUT_S)
        self.sent.append(place(connection, random.choice(self.users)))
        connection.close()
