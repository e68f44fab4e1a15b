"""The results as a page of tables. The same results.json gives the same files, byte for byte."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import plot
from bench.comparison import against_peers, comparison, ratios, table
from bench.growth import EMPTY, FULL
from bench.load import Run
from bench.replicas import ONE, TWO
from bench.traces import ALL, OFF, SOME

EMBEDDED_LIMIT_MIB, SERVICE_LIMIT_MIB = 200, 90  # what the project allows itself
GROWTH_LIMIT = 0.10


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


def growth(rows: int, runs: Sequence[Run]) -> str:
    """Return whether a full installation is as fast and as cheap as an empty one."""
    verdicts = []
    for clients in sorted({run.clients for run in runs}):
        cost = median(ratios(runs, FULL, EMPTY, clients, lambda run: run.cpu_ms)) - 1
        rate = median(ratios(runs, FULL, EMPTY, clients, lambda run: run.per_second)) - 1
        within = cost <= GROWTH_LIMIT and rate >= -GROWTH_LIMIT
        verdicts.append(
            f"At {clients} clients an order costs {cost:+.0%} CPU and the rate is {rate:+.0%}: "
            f"{'within' if within else '**not** within'} {GROWTH_LIMIT:.0%}."
        )
    return "\n\n".join(
        [
            f"*full* had {rows} rows in each of orders, outbox, operations and letters before, *empty* none.",
            *verdicts,
            comparison(runs, FULL, EMPTY),
        ]
    )


def memory(stack: Sequence[dict[str, Any]], embedded: Sequence[dict[str, Any]]) -> str:
    """Return the resident set of every process, and whether it is within its limit."""
    names = list(stack[0]["mib"])
    highest = max(held for one in stack for held in one["mib"].values())
    most = max(one["mib"]["embedded"] for one in embedded)
    parts = [
        f"Of each service of the stack, MiB; the most is {highest:.1f}, {verdict(highest, SERVICE_LIMIT_MIB)}:",
        table(
            ["after orders", *names],
            [[str(one["orders"]), *(f"{one['mib'][name]:.1f}" for name in names)] for one in stack],
        ),
    ]
    if len(stack) > 2:
        before, after = stack[-2:]
        grown = max(after["mib"][name] - before["mib"][name] for name in names)
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
        parts += [
            "## With a million orders there already"
            if results["growth"]["rows"] == 10**6
            else "## With many orders there already",
            growth(results["growth"]["rows"], runs_of(results["growth"]["runs"])),
        ]
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
