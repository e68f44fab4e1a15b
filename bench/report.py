"""The results as a page of tables. The same results.json gives the same files, byte for byte."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import plot
from bench.comparison import against_peers, comparison, names, numbers, ratios, table
from bench.growth import EMPTY, FEW, MANY, full
from bench.load import Run
from bench.replicas import ONE, TWO
from bench.traces import ALL, OFF, SOME

EMBEDDED_LIMIT_MIB, SERVICE_LIMIT_MIB = 200, 90  # what the project allows itself
GROWTH_LIMIT = 0.10
BACKLOG = {"per_second": ".0f", "p50_ms": ".1f", "p99_ms": ".1f", "cpu_ms": ".2f"}


def limits(sql: Sequence[dict[str, Any]], publish: Sequence[dict[str, Any]]) -> str:
    """Return what the databases and the broker can do when they do nothing else."""
    rows = []
    for clients, batch in sorted({(one["clients"], one["batch"]) for one in sql}):
        mine = {one["database"]: one for one in sql if (one["clients"], one["batch"]) == (clients, batch)}
        rows.append(
            [
                str(clients),
                str(batch),
                *(f"{one['per_second']:.0f}" for one in mine.values()),
                f"**{in_sequence(mine.values()):.0f}**",
                f"{sum(one['cpu_ms'] for one in mine.values()):.2f}",
            ]
        )
    databases = list(dict.fromkeys(one["database"] for one in sql))
    return "\n\n".join(
        [
            "Our own SQL statements by pgbench, each database in turn. An order needs all of them, so the seconds of "
            "an order are the sum of the seconds in each database: the limit is 1 / (1/a + 1/b + 1/c) orders a second.",
            table(
                [
                    "clients",
                    "orders a statement",
                    *(f"{name}, orders/s" for name in databases),
                    "limit, orders/s",
                    "PostgreSQL, CPU ms/order",
                ],
                rows,
            ),
            "Persistent messages to a durable queue, on one channel, each confirmed:",
            table(
                ["messages between two waits", "messages/s", "RabbitMQ, CPU ms/message"],
                [[str(one["batch"]), f"{one['per_second']:.0f}", f"{one['cpu_ms']:.3f}"] for one in publish],
            ),
        ]
    )


def in_sequence(databases: Iterable[dict[str, Any]]) -> float:
    """Return the orders a second when each goes through all of the databases one after the other."""
    return 1 / sum(1 / one["per_second"] for one in databases)


def growth(rows: Sequence[int], runs: Sequence[Run]) -> str:
    """Return whether full installations are as fast and as cheap as an empty one."""
    return "\n\n".join(
        [
            "The installations had so many rows in each of orders, outbox, operations and letters before; "
            f"*{EMPTY}* had none.",
            *(judged(runs, full(count), EMPTY) for count in rows),
            *written(runs),
            *(part for count in rows for part in (f"### {full(count)}", comparison(runs, full(count), EMPTY))),
        ]
    )


def judged(runs: Sequence[Run], one: str, other: str) -> str:
    """Return whether orders are as cheap and as many as in the other case, or nearly so."""
    verdicts = []
    for clients in numbers(runs):
        cost = median(ratios(runs, one, other, clients, lambda run: run.cpu_ms)) - 1
        rate = median(ratios(runs, one, other, clients, lambda run: run.per_second)) - 1
        within = cost <= GROWTH_LIMIT and rate >= -GROWTH_LIMIT
        verdicts.append(
            f"{one}: at {clients} clients an order costs {cost:+.0%} CPU and the rate is {rate:+.0%}: "
            f"{'within' if within else '**not** within'} {GROWTH_LIMIT:.0%}."
        )
    return "\n\n".join(verdicts)


def written(runs: Sequence[Run]) -> list[str]:
    """Return what an order adds to the log of PostgreSQL in each case, where that was measured."""
    if not all(run.wal_kb for run in runs):
        return []
    each = (f"{name}: {median(run.wal_kb for run in runs if run.contender == name):.1f} kB" for name in names(runs))
    return [
        f"WAL an order: {', '.join(each)}. After a checkpoint, which was made before the load, PostgreSQL writes each "
        "page as a whole when it is first changed."
    ]


def accounts(runs: Sequence[Run]) -> str:
    """Return whether an order is as cheap when it is for one of many accounts."""
    return "\n\n".join([judged(runs, MANY, FEW), comparison(runs, MANY, FEW)])


def backlog(clients: int, found: Sequence[dict[str, Any]]) -> str:
    """Return how fast a backlog drains, and what orders feel of it."""
    rows = []
    for one in found:
        drained = (
            [f"{one['drained_s']:.0f}", f"{one['events'] / one['drained_s']:.0f}"] if "events" in one else ["", ""]
        )
        load = [f"{one[key]:{form}}" for key, form in BACKLOG.items()] if "orders" in one else [""] * len(BACKLOG)
        rows.append([one["backlog"], *drained, *load])
    events = max(one.get("events", 0) for one in found)
    return "\n\n".join(
        [
            f"{events:,} events of paid orders wait in the queue of notifications, or in the outbox of orders. Each "
            f"drains by itself, and then again while {clients} clients place orders at first. CPU is that of orders "
            "and billing, an order; the relay of the outbox is a part of orders.",
            table(["events", "drained, s", "events/s", "orders/s", "p50, ms", "p99, ms", "CPU ms/order"], rows),
        ]
    )


def memory(stack: Sequence[dict[str, Any]], embedded: Sequence[dict[str, Any]]) -> str:
    """Return the resident set of every process, and whether it is within its limit."""
    services = list(stack[0]["mib"])
    highest = max(held for one in stack for held in one["mib"].values())
    most = max(one["mib"]["embedded"] for one in embedded)
    parts = [
        f"Of each service of the stack, MiB; the most is {highest:.1f}, {verdict(highest, SERVICE_LIMIT_MIB)}:",
        table(
            ["after orders", *services],
            [[str(one["orders"]), *(f"{one['mib'][name]:.1f}" for name in services)] for one in stack],
        ),
    ]
    if len(stack) > 2:
        before, after = stack[-2:]
        grown = max(after["mib"][name] - before["mib"][name] for name in services)
        parts.append(
            f"From {before['orders']} to {after['orders']} orders no service grew by more than {max(grown, 0):.1f} MiB."
        )
    return "\n\n".join(
        [
            *parts,
            f"Of embedded mode besides PostgreSQL, MiB; the most is {most:.1f}, {verdict(most, EMBEDDED_LIMIT_MIB)}:",
            table(
                ["after orders", "embedded"],
                [[str(one["orders"]), f"{one['mib']['embedded']:.1f}"] for one in embedded],
            ),
        ]
    )


def verdict(held: float, limit: float) -> str:
    return f"{'under' if held < limit else '**not** under'} {limit}"


def runs_of(part: Iterable[dict[str, Any]]) -> list[Run]:
    return [Run(**one) for one in part]


def markdown(results: dict[str, Any]) -> str:
    """Return the whole report."""
    parts = [
        "# Results",
        "Written by `make bench` from [results.json](results.json); what it means is in [../README.md](../README.md).",
    ]
    if "compare" in results:
        parts += ["## Against the peers", against_peers(runs_of(results["compare"]["runs"]))]
    parts += ["## The machine", table(["", ""], list(results["machine"].items()))]
    if "limits" in results:
        parts += ["## The limits of the servers", limits(**results["limits"])]
    if "growth" in results:
        rows, runs = results["growth"]["rows"], runs_of(results["growth"]["runs"])
        parts += ["## With many orders there already", growth(rows, runs)]
    if "accounts" in results:
        parts += ["## With many accounts", accounts(runs_of(results["accounts"]["runs"]))]
    if "backlog" in results:
        parts += ["## With many events that wait", backlog(**results["backlog"])]
    if "replicas" in results:
        parts += ["## Two replicas of each service", comparison(runs_of(results["replicas"]["runs"]), TWO, ONE)]
    if "traces" in results:
        runs = runs_of(results["traces"]["runs"])
        parts += ["## Traces", comparison(runs, SOME, OFF), comparison(runs, ALL, OFF)]
    if "memory" in results:
        parts += ["## Memory", memory(**results["memory"])]
    return "\n\n".join(parts) + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results.json, results.md and, where there is a comparison, results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results))
    if "compare" in results:
        plot.draw(runs_of(results["compare"]["runs"]), folder / "results.png")
