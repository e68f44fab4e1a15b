"""How fast 100,000 events drain from the queue of notifications or the outbox, and what orders feel of it."""

import time
from pathlib import Path
from typing import Any

from bench.capacity import frozen, publish
from bench.contenders import Ours, Servers, pids_of, running, seconds_of
from bench.filling import fill_outbox
from bench.load import run, wrk
from services.local.net import wait_for

EVENTS = 100_000
DRAINED_S = 300
NONE, QUEUE, OUTBOX = "no backlog", "in the queue", "in the outbox"
ASKING_ORDERS = ("orders", "billing")  # whose work an order is until it is answered


def measure(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Load without a backlog, then with each; and let each drain by itself."""
    with Servers(folder) as servers:
        ours = Ours(servers)
        with running(ours) as users:
            run(ours, users[ours.name], clients, min(3, seconds))
            until = letters(ours)
            found = [loaded(ours, users[ours.name], clients, seconds) | {"backlog": NONE}]
            until += int(found[0]["orders"])
            for name, build in {QUEUE: in_queue, OUTBOX: in_outbox}.items():
                for is_loaded in (False, True):
                    until += build(ours)
                    started = time.monotonic()
                    one = loaded(ours, users[ours.name], clients, seconds) if is_loaded else {}
                    until += int(one.get("orders", 0))
                    drained_s = drained(ours, until, started)
                    found.append(one | {"backlog": name, "events": EVENTS, "drained_s": drained_s})
                    print(found[-1], flush=True)
    return {"clients": clients, "found": found}


def loaded(ours: Ours, users: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Load for a while; return what wrk says, and the CPU of orders and billing for an order."""
    used = asking_s(ours)
    figures = wrk(ours.url, users, clients, seconds, ours.servers.folder)
    if figures["failed"]:
        raise AssertionError(f"backlog: wrk counted {figures}")
    return {
        "orders": figures["orders"],
        "per_second": figures["orders"] / figures["seconds"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "cpu_ms": 1000 * (asking_s(ours) - used) / figures["orders"],
    }


def asking_s(ours: Ours) -> float:
    pids = pids_of(ours.stack.supervisor)
    return sum(seconds_of(pids[name]) for name in ASKING_ORDERS)


def in_queue(ours: Ours) -> int:
    """Fill the queue of notifications while it is frozen; return how many events wait there."""
    with frozen(ours.pids()["notifications"]):
        publish(ours.servers, EVENTS)
    return EVENTS


def in_outbox(ours: Ours) -> int:
    fill_outbox(ours.servers, EVENTS)
    return EVENTS


def letters(ours: Ours) -> int:
    return int(ours.servers.ask("notifications", "select count(*) from letters where kind = 'order_paid'"))


def drained(ours: Ours, until: int, started: float) -> float:
    """Wait for the letters of all events, and for the outbox to have recorded them; return how long it took."""
    wait_for(lambda: letters(ours) >= until and not ours.unrecorded(), DRAINED_S, "all letters")
    return time.monotonic() - started
