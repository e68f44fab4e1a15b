"""A simulation of the pipeline of an order, event by event, with rounds: what the measured costs say about other sizes.

A process does one job at a time, and needs a core for it; databases and brokers do as many at once as there are cores.
Waiting costs no core: for the disk at a commit, for a round of others, for the gathering of the outbox. How the cost of
orders divides among its steps is not measured; here each step has the same share. The same seed gives the same figures.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from statistics import quantiles
from typing import Any

from bench.costs import Cost
from bench.engine import Clock, Cores, Process, Rounds, Then
from services.ops.configuration import configuration

ROUND_STEPS, ITEM_STEPS = 3, 5  # of orders: store, ask, end; and besides these: receive and answer, publish
configured = cache(configuration)  # the simulation has the settings of config.yaml


@dataclass(frozen=True)
class Costs:
    """What the steps cost, in milliseconds of CPU; `sync_ms` is how long a commit waits for the disk."""

    orders: Cost
    orders_database: Cost
    calls: Cost  # of the broker: an RPC a round, an event an item
    billing: Cost
    billing_database: Cost
    notifications: Cost
    notifications_database: Cost
    deliveries: Cost  # of the broker: what notifications gets
    load_ms: float  # of the load generator, an order
    sync_ms: float


@dataclass(frozen=True)
class Deployment:
    """How many processes of each service, and how many cores of each server; with `shared`, all live on these."""

    orders: int = 1
    billing: int = 1
    notifications: int = 1
    broker: int = 1
    orders_database: int = 1
    billing_database: int = 1
    notifications_database: int = 1
    shared: int | None = None


@dataclass
class Simulated:
    """What came of it. `busy` is the share of their time in which processes or cores of a kind had work."""

    per_second: float
    p50_ms: float
    p99_ms: float
    batch: float
    letters: int
    busy: dict[str, float] = field(default_factory=dict)


KINDS = tuple(one.name for one in fields(Deployment) if one.name != "shared")


class Shop:
    """The processes of all services, their databases and the broker."""

    def __init__(self, clock: Clock, costs: Costs, deployment: Deployment, answered: Callable[[Any], None]) -> None:
        self.clock, self.costs, self.deployment, self.answered = clock, costs, deployment, answered
        shared = Cores(clock, deployment.shared) if deployment.shared else None
        unlimited = deployment.orders + deployment.billing + deployment.notifications + 1
        self.apps = shared or Cores(clock, unlimited)
        servers = ("broker", "orders_database", "billing_database", "notifications_database")
        self.servers = {name: shared or Cores(clock, getattr(deployment, name)) for name in servers}
        self.load = Process(self.apps, "load")
        self.billing = [Process(self.apps, "billing") for _ in range(deployment.billing)]
        self.orders = [OrdersProcess(self) for _ in range(deployment.orders)]
        self.notifications = [Notifications(self) for _ in range(deployment.notifications)]
        self.letters = self._asked = self._told = self._placed = 0

    def place(self, order: Any) -> None:
        self._placed += 1
        self.orders[self._placed % len(self.orders)].receive(order)

    def commit(self, database: str, ms: float, then: Then) -> None:
        """Have a statement done, and wait until the disk has it."""
        self.servers[database].parallel(database, ms, lambda: self.clock.after(self.costs.sync_ms, then))

    def pay(self, count: int, then: Then) -> None:
        """Ask billing for so many payments, by way of the broker."""
        self._asked += 1
        billing, half = self.billing[self._asked % len(self.billing)], self.costs.billing.of(count) / 2
        broker, hop_ms = self.servers["broker"], self.costs.calls.round_ms / 2
        database_ms = self.costs.billing_database.of(count)

        def reply() -> None:
            broker.parallel("broker", hop_ms, then)

        def decide() -> None:
            self.commit("billing_database", database_ms, lambda: billing.run(half, reply))

        broker.parallel("broker", hop_ms, lambda: billing.run(half, decide))

    def tell(self, count: int) -> None:
        """Publish so many events; each goes to one process of notifications."""
        ms = (self.costs.calls.item_ms + self.costs.deliveries.item_ms) * count

        def deliver() -> None:
            for _ in range(count):
                self._told += 1
                self.notifications[self._told % len(self.notifications)].rounds.add(None)

        self.servers["broker"].parallel("broker", ms, deliver)


class OrdersProcess:
    """One process of orders: receive, store, ask billing, end, answer; and publish a moment later."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.process = Process(shop.apps, "orders")
        self.store, self.settle = Rounds(self._store), Rounds(self._settle)
        self.round_ms = shop.costs.orders.round_ms / ROUND_STEPS
        self.item_ms = shop.costs.orders.item_ms / ITEM_STEPS
        self.statement = Cost(shop.costs.orders_database.round_ms / 2, shop.costs.orders_database.item_ms / 2)
        self.workers = configured()["max_workers"]
        self.queued: deque[Any] = deque()
        self.events = 0

    def receive(self, order: Any) -> None:
        self.process.run(self.item_ms, partial(self._enter, order))

    def _enter(self, order: Any) -> None:
        if self.workers:
            self.workers -= 1
            self.store.add(order)
        else:
            self.queued.append(order)

    def _store(self, orders: list[Any], done: Then) -> None:
        def stored() -> None:
            for order in orders:
                self.settle.add(order)
            done()

        ms = self.round_ms + self.item_ms * len(orders)
        statement_ms = self.statement.of(len(orders))
        self.process.run(ms, lambda: self.shop.commit("orders_database", statement_ms, stored))

    def _settle(self, orders: list[Any], done: Then) -> None:
        half = self.round_ms + self.item_ms * len(orders) / 2
        statement_ms = self.statement.of(len(orders))

        def ended() -> None:
            for order in orders:
                self.process.run(self.item_ms, partial(self._answer, order))
            self._publish_soon(len(orders))
            done()

        def end() -> None:
            self.shop.commit("orders_database", statement_ms, ended)

        self.process.run(half, lambda: self.shop.pay(len(orders), lambda: self.process.run(half, end)))

    def _answer(self, order: Any) -> None:
        self.workers += 1
        if self.queued:
            self._enter(self.queued.popleft())
        self.shop.answered(order)

    def _publish_soon(self, count: int) -> None:
        if not self.events:
            self.shop.clock.after(1000 * configured()["OUTBOX_GATHER_S"], self._publish)
        self.events += count

    def _publish(self) -> None:
        count, self.events = self.events, 0
        self.process.run(self.item_ms * count, lambda: self.shop.tell(count))


class Notifications:
    """One process of notifications, which stores the letters of all events that have come, up to EVENT_BATCH."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.process = Process(shop.apps, "notifications")
        self.rounds = Rounds(self._handle, configured()["EVENT_BATCH"])

    def _handle(self, events: Sequence[Any], done: Then) -> None:
        half = self.shop.costs.notifications.of(len(events)) / 2
        database_ms = self.shop.costs.notifications_database.of(len(events))

        def stored() -> None:
            self.shop.letters += len(events)
            self.process.run(half, done)

        self.process.run(half, lambda: self.shop.commit("notifications_database", database_ms, stored))


def simulate(
    costs: Costs,
    deployment: Deployment,
    clients: int | None = None,
    rate: float | None = None,
    seconds: float = 2.0,
    seed: int = 1,
) -> Simulated:
    """Load the shop by clients, each of which waits for its answer, or by `rate` orders a second at random times.

    The first quarter of the time warms it up, and does not count.
    """
    clock, times, end_ms = Clock(seed), [], 1000 * seconds
    begin_ms = end_ms / 4

    def answered(sent_ms: float) -> None:
        if clock.now >= begin_ms:
            times.append(clock.now - sent_ms)
        if clients:
            shop.load.run(costs.load_ms, place)

    def place() -> None:
        shop.place(clock.now)

    def arrive() -> None:
        place()
        clock.after(clock.random.expovariate(rate / 1000), arrive)  # type: ignore[operator]

    shop = Shop(clock, costs, deployment, answered)
    for _ in range(clients or 0):
        shop.load.run(costs.load_ms, place)
    if rate:
        arrive()
    clock.run_until(begin_ms)
    before = busy(shop, deployment, end_ms)
    clock.run_until(end_ms)
    after = busy(shop, deployment, end_ms)
    share = end_ms / (end_ms - begin_ms)
    rounds = sum(one.settle.rounds for one in shop.orders)
    cuts = quantiles(times, n=100, method="inclusive")
    return Simulated(
        len(times) / (end_ms - begin_ms) * 1000,
        cuts[49],
        cuts[98],
        sum(one.settle.items for one in shop.orders) / rounds,
        shop.letters,
        {kind: (after[kind] - before[kind]) * share for kind in after},
    )


def busy(shop: Shop, deployment: Deployment, ms: float) -> dict[str, float]:
    """Return which share of `ms` the processes or cores of each kind have been busy so far."""
    total: dict[str, float] = defaultdict(float)
    for cores in {id(one): one for one in (shop.apps, *shop.servers.values())}.values():
        for kind, busy_ms in cores.busy_ms.items():
            total[kind] += busy_ms
    return {kind: total[kind] / ms / getattr(deployment, kind) for kind in KINDS}
