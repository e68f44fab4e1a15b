"""The size of a deployment, computed from the measured costs: nothing here was run but in the simulation."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from bench.alone import Taken
from bench.costs import Cost, fit
from bench.simulation import KINDS, Costs, Deployment, Simulated, simulate

#: Which share of its time a process or a core is to have work. The rest is for bursts, and for a replica that dies.
BUSY = (0.6, 0.75)
RATES = (1000, 10_000, 100_000)
SERVER_CORES = 16  # of a database server or a node of the broker
WAL_MB_S = 200  # that the disk of a database server is to take, for years
SIMULATED_ORDERS, LEAST_S = 8000, 0.25
TRIES, FEW = 12, 4
SLACK = 1.04  # as a simulated second has its accidents
SERVICES = ("orders", "billing", "notifications")


def costs_of(taken: Iterable[Taken], sync_ms: float) -> Costs:
    """Return what the steps cost, by what each service was measured to take alone."""
    runs = list(taken)

    def of(service: str, kind: str) -> Cost:
        return fit([(one.batch, getattr(one, f"{kind}_ms")) for one in runs if one.service == service])

    return Costs(
        orders=of("orders", "service"),
        orders_database=of("orders", "database"),
        calls=of("orders", "broker"),
        billing=of("billing", "service"),
        billing_database=of("billing", "database"),
        notifications=of("notifications", "service"),
        notifications_database=of("notifications", "database"),
        deliveries=of("notifications", "broker"),
        load_ms=min(one.load_ms for one in runs if one.service == "orders"),
        sync_ms=sync_ms,
    )


@dataclass(frozen=True)
class Size:
    """A deployment for a rate, how it fares in the simulation, and how many servers its cores and its log need."""

    rate: int
    share: float  # of its time in which each process is busy
    deployment: Deployment
    simulated: Simulated
    shards: dict[str, int]  # of each database
    nodes: int  # of the broker
    queues: int  # that the events have to be spread over


def size(rate: int, share: float, costs: Costs, wal_bytes: dict[str, float]) -> Size:
    """Return a deployment in which nothing is busy for much more than this share of its time.

    It begins with enough for orders that share little. Fewer processes make larger rounds, which cost less; so smaller
    numbers are tried in the simulation.
    """
    seconds = max(SIMULATED_ORDERS / rate, LEAST_S)
    deployment = guess(rate, share, costs)
    simulated = simulate(costs, deployment, rate=rate, seconds=seconds)
    for _ in range(TRIES):
        smaller = corrected(deployment, simulated.busy, share)
        tried = simulate(costs, smaller, rate=rate, seconds=seconds)
        if smaller == deployment or max(tried.busy.values()) > share * SLACK:
            break
        deployment, simulated = smaller, tried
    for kind in KINDS:  # of a few, half may be one too many to take away, and one not
        while 1 < (count := getattr(deployment, kind)) <= FEW:
            smaller = replace(deployment, **{kind: count - 1})
            tried = simulate(costs, smaller, rate=rate, seconds=seconds)
            if max(tried.busy.values()) > share * SLACK:
                break
            deployment, simulated = smaller, tried
    shards = {
        service: max(
            ceil(getattr(deployment, f"{service}_database") / SERVER_CORES),
            ceil(rate * wal_bytes[service] / (WAL_MB_S * 10**6)),
        )
        for service in SERVICES
    }
    nodes, queues = ceil(deployment.broker / SERVER_CORES), needed(rate / queue_limit(costs), share)
    return Size(rate, share, deployment, simulated, shards, nodes, queues)


def guess(rate: float, share: float, costs: Costs, batch: float = 1) -> Deployment:
    """Return the deployment for rounds of `batch` orders."""
    per_order = {
        "orders": costs.orders,
        "billing": costs.billing,
        "notifications": costs.notifications,
        "broker": costs.calls + costs.deliveries,
        "orders_database": costs.orders_database,
        "billing_database": costs.billing_database,
        "notifications_database": costs.notifications_database,
    }
    return Deployment(**{kind: needed(rate * per_order[kind].per_item(batch) / 1000, share) for kind in KINDS})


def needed(busy: float, share: float) -> int:
    """Return how many processes or cores it takes for so much work, if each may be busy for this share of its time."""
    return max(ceil(busy / share), 1)


def corrected(deployment: Deployment, busy: dict[str, float], share: float) -> Deployment:
    """Return the deployment with half of what had too little to do taken away, and more of what had too much."""
    changed = {}
    for kind in KINDS:
        count = getattr(deployment, kind)
        wanted = needed(count * busy[kind], share)
        changed[kind] = max(wanted, (count + wanted) // 2)
    return replace(deployment, **changed)


def queue_limit(costs: Costs) -> float:
    """Return the events a second of one queue, if the broker did all of an event in the one process of the queue."""
    return 1000 / (costs.calls.item_ms + costs.deliveries.item_ms)


@dataclass(frozen=True)
class Limit:
    """What one of something can bear, in orders a second, and what to do beyond that."""

    what: str
    per_second: float
    then: str


def limits(taken: Sequence[Taken], costs: Costs, wal_bytes: dict[str, float]) -> list[Limit]:
    """Return the first limits, the lowest first; all at full use, without anything to spare."""
    best = {service: min(one.service_ms for one in taken if one.service == service) for service in SERVICES}
    found = [Limit(f"one process of {service}", 1000 / ms, "another process") for service, ms in best.items()]
    found.append(Limit("one queue of events", queue_limit(costs), "a consistent-hash exchange, by user"))
    for service in SERVICES:
        ms = min(one.database_ms for one in taken if one.service == service)
        by = {"orders": "order", "billing": "account", "notifications": "user"}[service]
        cpu, log = SERVER_CORES * 1000 / ms, WAL_MB_S * 10**6 / wal_bytes[service]
        of = f"{SERVER_CORES} cores" if cpu < log else f"{WAL_MB_S} MB/s of WAL"
        found.append(Limit(f"one database server of {service} ({of})", min(cpu, log), f"shards by {by}"))
    return sorted(found, key=lambda one: one.per_second)


def wal_of(taken: Iterable[Taken]) -> dict[str, float]:
    """Return the bytes of WAL that an order costs each database, in the largest rounds that were measured."""
    largest = {one.service: one for one in sorted(taken, key=lambda one: one.batch)}
    return {service: one.wal_bytes for service, one in largest.items()}


def computed(measured: dict[str, Any], clients: Iterable[int], cores: int) -> dict[str, Any]:
    """Return all that is computed from what was measured."""
    taken = [Taken(**one) for one in measured["taken"]]
    costs, wal_bytes = costs_of(taken, measured["sync_ms"]), wal_of(taken)
    return {
        "costs": asdict(costs),
        "predicted": {str(number): asdict(one) for number, one in predicted(costs, cores, clients).items()},
        "limits": [asdict(one) for one in limits(taken, costs, wal_bytes)],
        "sizes": [asdict(size(rate, share, costs, wal_bytes)) for share in BUSY for rate in RATES],
    }


def predicted(costs: Costs, cores: int, clients: Iterable[int], seconds: float = 3.0) -> dict[int, Simulated]:
    """Return what the simulation says about one process of each service, with the load, on a machine of `cores`."""
    one = Deployment(shared=cores)
    return {number: simulate(costs, one, clients=number, seconds=seconds) for number in clients}
