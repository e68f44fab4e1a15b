"""The most that one process of each service takes when the others cost it no time, and its CPU an order.

Orders has a stub of billing (`stub.py`) under wrk; billing gets RPC requests into its queue, several in flight;
notifications finds 10,000 events in its queue.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import amqp
import psutil
from kombu import Connection
from nameko.standalone.events import get_event_exchange

from bench import stub
from bench.alone import Alone, Taken
from bench.contenders import Servers
from bench.filling import open_accounts
from bench.load import SETTLED_S, wrk
from services.contracts import OrderPaid, Outcome
from services.kit.amqp.message import Message
from services.kit.amqp.publisher import ConfirmedChannel
from services.kit.amqp.transport import JSON
from services.local.net import HOST, wait_for

ACCOUNTS = 100_000  # so many that requests in flight hardly ever meet at one
IN_FLIGHT = 4
REQUESTS_OF = (1, 8, 32, 64)  # payments in a request
EVENTS, WARM_UP_EVENTS, EVENT_BATCHES, PUBLISHED_AT_ONCE = 10_000, 500, (1, 10, 100), 200
CONFIRM_S = 30
SYNCS = 200


def orders(servers: Servers, clients: Sequence[int], seconds: float) -> Iterator[Taken]:
    """Load orders by HTTP, with a billing that answers at once."""
    users = [str(UUID(int=number)) for number in range(200)]  # only billing would know that they have no accounts
    with Alone(servers, "orders").running() as alone:
        url = f"http://{HOST}:{alone.port}"

        def work(number: int, for_s: float) -> float:
            figures = wrk(url, users, number, for_s, servers.folder)
            if figures["failed"]:
                raise AssertionError(f"orders: wrk counted {figures}")
            unmarked = "select count(*) from outbox where published_at is null"
            wait_for(lambda: not servers.ask("orders", unmarked), SETTLED_S, "the events to be published")
            return figures["seconds"]

        work(16, min(2, seconds))
        for number in clients:
            yield alone.measure(f"{number} clients", lambda number=number: work(number, seconds))  # type: ignore[misc]


def billing(servers: Servers, seconds: float) -> Iterator[Taken]:
    """Load billing by requests of several sizes, IN_FLIGHT at a time."""
    with Alone(servers, "billing").running() as alone:
        with Caller(servers, open_accounts(servers, ACCOUNTS)) as caller:
            caller.call(8, min(2, seconds))
            for size in REQUESTS_OF:
                load = f"{IN_FLIGHT} requests of {size}"
                yield alone.measure(load, lambda size=size: caller.call(size, seconds))  # type: ignore[misc]


class Caller:
    """Asks billing to pay, in Nameko's wire format."""

    def __init__(self, servers: Servers, users: Sequence[str]) -> None:
        self.users = users
        self.connection = amqp.Connection(f"{HOST}:{servers.rabbitmq.port}")
        self.random = random.Random(1)
        self.pending = 0
        self.until = 0.0
        self.size = 0

    def __enter__(self) -> "Caller":
        self.connection.connect()
        self.channel = self.connection.channel()
        self.queue = self.channel.queue_declare("", exclusive=True).queue
        self.channel.queue_bind(self.queue, stub.RPC_EXCHANGE, self.queue)
        self.channel.basic_consume(self.queue, no_ack=True, callback=self._answered)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def call(self, size: int, seconds: float) -> float:
        """Ask for `size` payments at a time, until the time is over; return how long it took."""
        started = time.monotonic()
        self.size, self.until = size, started + seconds
        for _ in range(IN_FLIGHT):
            self._ask()
        while self.pending:
            self.connection.drain_events(timeout=CONFIRM_S)
        return time.monotonic() - started

    def _ask(self) -> None:
        users = self.random.sample(self.users, self.size)
        payments = [{"operation_id": str(uuid4()), "user_id": user, "amount": 1} for user in users]
        request = {"args": [], "kwargs": {"payments": payments, "wait": True}}
        self.pending += 1
        self.channel.basic_publish(
            amqp.Message(json.dumps(request), reply_to=self.queue, correlation_id="1", delivery_mode=1, **JSON),
            stub.RPC_EXCHANGE,
            "billing.pay_all",
        )

    def _answered(self, reply: Any) -> None:
        self.pending -= 1
        answer = json.loads(reply.body)
        if answer["error"] or set(answer["result"]) != {Outcome.ACCEPTED}:
            raise AssertionError(f"billing: {answer}")
        if time.monotonic() < self.until:
            self._ask()


def notifications(servers: Servers) -> Iterator[Taken]:
    """Let notifications find EVENTS events in its queue, with several settings of EVENT_BATCH."""
    for batch in EVENT_BATCHES:
        with Alone(servers, "notifications", {"EVENT_BATCH": str(batch)}).running() as alone:
            there = alone.rows()[0] + WARM_UP_EVENTS
            publish(servers, WARM_UP_EVENTS)
            letters(alone, there)
            with frozen(alone.supervisor.pid("notifications")):
                publish(servers, EVENTS)
            load = f"{EVENTS} events, {batch} at a time"
            yield alone.measure(load, lambda: letters(alone, there + EVENTS))


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """Stop a process, and let it go on at the end."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def publish(servers: Servers, count: int) -> None:
    """Publish that so many orders are paid, as the relay of orders does, with confirms."""
    exchange = get_event_exchange("orders", {})
    connection = Connection(servers.rabbitmq.uri)
    try:
        channel = ConfirmedChannel(connection)
        for first in range(0, count, PUBLISHED_AT_ONCE):
            events = [
                OrderPaid(order_id=uuid4(), user_id=uuid4(), price=1)
                for _ in range(min(PUBLISHED_AT_ONCE, count - first))
            ]
            messages = [
                Message(one.model_dump_json().encode(), exchange, one.TYPE, {}, {"message_id": str(one.event_id)}, JSON)
                for one in events
            ]
            if not all(channel.publish(messages, CONFIRM_S)):
                raise AssertionError("an event of an order found no queue")
    finally:
        connection.release()


def letters(alone: Alone, count: int) -> float:
    """Wait until there are so many letters; return how long that took."""
    started = time.monotonic()
    wait_for(lambda: alone.rows()[0] >= count, SETTLED_S, "all letters")
    return time.monotonic() - started


def sync_ms(folder: Path) -> float:
    """Return the median time in which the disk takes 8 KiB at the end of a file, as a commit does."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(8192))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return 1000 * median(times)


def measure(folder: Path, clients: Sequence[int], seconds: float) -> dict[str, Any]:
    """Measure each service by itself, on servers of its own."""
    taken: list[Taken] = []
    with Servers(folder / "orders") as servers:
        taken += orders(servers, clients, seconds)
    with Servers(folder / "billing") as servers:
        taken += billing(servers, seconds)
    with Servers(folder / "notifications") as servers:
        taken += notifications(servers)
    return {"sync_ms": sync_ms(folder), "taken": [asdict(one) for one in taken]}
