"""The experiment of `make compare`: the three styles on the same servers, in turns.

A client is a thread with a connection of its own. It notes when it sent each order and when it was answered. When an
order was decided, and when its letter was there, are the times of the commits, as PostgreSQL keeps them
(`track_commit_timestamp`); client and server share a clock.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import amqp

from bench.clients import Clients, Sent, SteadyLoad
from bench.contenders import Servers, new_users, pids_of, seconds_of
from services.local.net import HOST, free_port, wait_for
from services.local.postgres import Postgres
from services.local.stack import GATEWAY, Stack, database_variable
from services.shop import SERVICES, STYLES, Style

STEADY = 50  # orders a second, which all styles can bear
SETTLED_S = 120.0
WARM_UP_S = 2.0
COUNTED = 100  # orders of which messages and commits are counted
EXCHANGES = ("nameko-rpc", "users.events", "orders.events", "billing.events")
TIMES = """
    select {id}::text, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 as at from {table} where {which}"""


@dataclass
class Measured:
    """One run of one style. Times are in milliseconds from the sending of an order; CPU is in milliseconds an order."""

    style: str
    clients: int
    orders: int
    per_second: float  # until the last letter
    answer_ms: list[float]  # p50 and p99
    decision_ms: list[float]
    letter_ms: list[float]
    services_ms: float
    broker_ms: float
    database_ms: float


@dataclass
class Counted:
    """What one order costs the broker and the databases."""

    style: str
    clients: int
    messages: float
    commits: float


@dataclass
class Speed:
    """The results of the part about speed."""

    runs: list[Measured] = field(default_factory=list)
    steady: list[Measured] = field(default_factory=list)
    counts: list[Counted] = field(default_factory=list)


class StyledServers(Servers):
    """The servers of all styles; PostgreSQL keeps the times of commits."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.postgres = Postgres(folder / "postgres", settings={"track_commit_timestamp": "on"})

    def __enter__(self) -> "StyledServers":
        super().__enter__()
        return self

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        self.ask(service, "select 1")
        with self._counters[service].cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def forget_connections(self) -> None:
        """Close the connections for counting, as their server has died."""
        for connection in self._counters.values():
            connection.close()
        self._counters.clear()

    def stack(self, style: Style) -> Stack:
        """Return a stack of this style, not started, whose data is that of the other styles.

        The outboxes are emptied: a change of style would publish again what they hold, while the next is measured.
        """
        self.postgres.ensure_databases(SERVICES)
        for service in ("users", "orders", "billing"):
            if self.ask(service, "select to_regclass('outbox')"):
                self.ask(service, "delete from outbox")
        os.environ["AMQP_URI"] = self.rabbitmq.uri
        for service in SERVICES:
            os.environ[database_variable(service)] = self.postgres.url(service)
        return Stack(self.folder / style.name, free_port(), say=lambda _: None, style=style)


@contextmanager
def started(stack: Stack) -> Iterator[Stack]:
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


def measure(folder: Path, clients: Sequence[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Load the styles in turns, `rounds` times; the first round also counts messages and commits."""
    speed = Speed()
    with StyledServers(folder) as servers:
        users: list[str] = []
        for number in range(rounds):
            for style in STYLES.values():
                with started(servers.stack(style)) as stack:
                    users = users or new_users(stack.url)
                    Clients(stack.ports["orders"][0], users, max(clients)).run(WARM_UP_S)
                    wait_until_finished(servers)
                    for one in clients:
                        many = Clients(stack.ports["orders"][0], users, one)
                        speed.runs.append(load(servers, stack, one, partial(many.run, seconds)))
                        print(line(speed.runs[-1]), flush=True)
                    speed.steady.append(load(servers, stack, 0, partial(steadily, stack, users, seconds)))
                    print(line(speed.steady[-1]), flush=True)
                    if number == 0:
                        for one in clients[:2]:
                            speed.counts.append(count(servers, stack, users, one))
                            print(speed.counts[-1], flush=True)
    return asdict(speed) | {"rate": STEADY}


def steadily(stack: Stack, users: Sequence[str], seconds: float) -> list[Sent]:
    """Place the same number of orders a second with each style, whatever becomes of the others."""
    with SteadyLoad(stack.ports["orders"][0], users, STEADY) as steady:
        time.sleep(seconds)
    return steady.sent


def line(run: Measured) -> str:
    return (
        f"{run.style:8} {run.clients:3} clients  {run.per_second:6.0f} orders/s  answer {run.answer_ms[0]:6.1f}"
        f"  decided {run.decision_ms[0]:6.1f}  letter {run.letter_ms[0]:6.1f} ms"
        f"  CPU {run.services_ms + run.broker_ms + run.database_ms:.2f} ms"
    )


def load(servers: StyledServers, stack: Stack, clients: int, send: Callable[[], list[Sent]]) -> Measured:
    """Load a style, wait until every order has its letter, and look up when each came."""
    before, began = cpu(servers, stack), time.time()
    sent = send()
    wait_until_finished(servers)
    after = cpu(servers, stack)
    decided, letters = times(servers, began)
    good = [one for one in sent if one.id]
    if len(good) != len(sent) or not {one.id for one in good} <= letters.keys():
        raise AssertionError(f"{stack.style.name}: {len(sent)} orders, {len(good)} accepted, {len(letters)} letters")
    services_ms, broker_ms, database_ms = (1000 * (after[kind] - before[kind]) / len(good) for kind in after)
    return Measured(
        stack.style.name,
        clients,
        len(good),
        len(good) / (max(letters.values()) - began),
        quantiles([one.answered_at - one.sent_at for one in good]),
        quantiles([decided[one.id] - one.sent_at for one in good]),
        quantiles([letters[one.id] - one.sent_at for one in good]),
        services_ms,
        broker_ms,
        database_ms,
    )


def times(servers: StyledServers, since: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return when each order placed since then was decided, and when its letter was there, by the order's id."""
    young = f"created_at > to_timestamp({since})"
    decided = servers.rows("orders", TIMES.format(id="id", table="orders", which=f"{young} and status <> 'pending'"))
    letters = servers.rows(
        "notifications", TIMES.format(id="order_id", table="letters", which=f"order_id is not null and {young}")
    )
    return dict(decided), dict(letters)


def quantiles(values_s: Sequence[float]) -> list[float]:
    """Return p50 and p99 in milliseconds."""
    ordered = sorted(values_s)
    return [1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.50, 0.99)]


def cpu(servers: StyledServers, stack: Stack) -> dict[str, float]:
    """Return the seconds of CPU used so far: by the services without the gateway, the broker, and the database."""
    pids = pids_of(stack.supervisor)
    return {
        "services": sum(seconds_of(pid) for name, pid in pids.items() if name != GATEWAY),
        "broker": seconds_of(servers.rabbitmq.pid) if stack.style.has_broker else 0.0,
        "database": seconds_of(servers.postgres.pid) - servers.asking_s(),
    }


def is_finished(servers: StyledServers) -> bool:
    """Return whether no order is pending, every ended one has its letter, and no event waits."""
    if servers.ask("orders", "select count(*) from orders where status = 'pending'"):
        return False
    ended = servers.ask("orders", "select count(*) from orders where status = 'paid' or reason = 'insufficient_funds'")
    if servers.ask("notifications", "select count(*) from letters where order_id is not null") < ended:
        return False
    waiting = "select count(*) from outbox where published_at is null"
    return not any(servers.ask(service, waiting) for service in ("users", "orders", "billing"))


def wait_until_finished(servers: StyledServers) -> None:
    wait_for(lambda: is_finished(servers), SETTLED_S, "every order to have its letter")


def count(servers: StyledServers, stack: Stack, users: Sequence[str], clients: int) -> Counted:
    """Count the messages and commits of some orders, without what the style does when it has nothing to do."""
    with amqp.Connection(f"{HOST}:{servers.rabbitmq.port}") as connection:
        channel = connection.channel()
        tap = channel.queue_declare("", exclusive=True).queue
        for exchange in EXCHANGES:
            channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
            channel.queue_bind(tap, exchange, "#")

        def seen() -> tuple[int, int]:
            return channel.queue_declare(tap, passive=True).message_count, commits(servers)

        idle_s = 4.0
        start = seen()
        time.sleep(idle_s)
        idle = (seen()[1] - start[1]) / idle_s
        first, began = seen(), time.time()
        Clients(stack.ports["orders"][0], users, clients).run(orders=COUNTED)
        wait_until_finished(servers)
        time.sleep(1.5)  # each process of PostgreSQL reports its commits once a second
        last, took_s = seen(), time.time() - began
    return Counted(
        stack.style.name,
        clients,
        (last[0] - first[0]) / COUNTED,
        (last[1] - first[1] - idle * took_s) / COUNTED,
    )


def commits(servers: StyledServers) -> int:
    """Return how many transactions of all databases have changed something so far: only those get a number."""
    return int(servers.ask("orders", "select pg_snapshot_xmax(pg_current_snapshot())"))
