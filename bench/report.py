"""The results as tables and as a plot. The same results.json gives the same files, byte for byte."""

import json
from collections.abc import Callable, Iterable, Sequence
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from bench.growth import EMPTY, FULL
from bench.load import Run
from bench.replicas import ONE, TWO
from bench.traces import ALL, OFF, SOME

OURS, PEER = "nameko-hw", "peer"
EMBEDDED_LIMIT_MIB, SERVICE_LIMIT_MIB = 200, 90  # what the project allows itself
GROWTH_LIMIT = 0.10

#: What is compared, with its unit, how it is read off a run, and how it is written.
FIGURES: dict[str, tuple[Callable[[Run], float], str]] = {
    "orders/s": (lambda run: run.per_second, ".0f"),
    "orders/s, to the last letter": (lambda run: run.per_second_to_letter, ".0f"),
    "p50, ms": (lambda run: run.p50_ms, ".1f"),
    "p99, ms": (lambda run: run.p99_ms, ".1f"),
    "CPU ms/order": (lambda run: run.cpu_ms, ".2f"),
    "... application": (lambda run: run.application_ms, ".2f"),
    "... broker": (lambda run: run.broker_ms, ".2f"),
    "... database": (lambda run: run.database_ms, ".2f"),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(runs: Iterable[Run], contender: str, clients: int) -> list[Run]:
    """Return the runs of one contender with this number of clients, in their order."""
    return [run for run in runs if (run.contender, run.clients) == (contender, clients)]


def ratios(runs: Sequence[Run], one: str, other: str, clients: int, figure: Callable[[Run], float]) -> list[float]:
    """Return `one` divided by `other`, pair by pair: the first run of each, the second of each, and so on."""
    pairs = zip(of(runs, one, clients), of(runs, other, clients), strict=True)
    return [figure(a) / figure(b) if figure(b) else nan for a, b in pairs]  # CPU is counted in ticks of 10 ms


def comparison(runs: Sequence[Run], one: str, other: str) -> str:
    """Return the medians of both, then the ratio of each pair and their median."""
    numbers = sorted({run.clients for run in runs})
    medians, by_pair = [], []
    for clients in numbers:
        for contender in (one, other):
            mine = of(runs, contender, clients)
            medians.append(
                [
                    contender,
                    str(clients),
                    *(format(median(map(figure, mine)), form) for figure, form in FIGURES.values()),
                ]
            )
        for name, (figure, _) in FIGURES.items():
            found = ratios(runs, one, other, clients, figure)
            by_pair.append([name, str(clients), *(f"{ratio:.2f}" for ratio in found), f"**{median(found):.2f}**"])
    pairs = len(of(runs, one, numbers[0]))
    return "\n\n".join(
        [
            f"Medians of {pairs} runs each; {sum(run.orders for run in runs)} orders in all, each of them finished:",
            table(["", "clients", *FIGURES], medians),
            f"Ratios, {one} to {other}, pair by pair:",
            table(["", "clients", *(f"pair {number}" for number in range(1, pairs + 1)), "median"], by_pair),
        ]
    )


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
        table(["the machine", ""], list(results["machine"].items())),
    ]
    if "compare" in results:
        parts += [
            "## Against the peer",
            "![Orders a second and CPU an order of both](results.png)",
            comparison(runs_of(results["compare"]["runs"]), OURS, PEER),
        ]
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


def plot(runs: Sequence[Run], file: Path) -> None:
    """Draw the orders a second and the CPU of an order by kind of process, of both at each number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    numbers = sorted({run.clients for run in runs})
    figure, (rate, cpu) = pyplot.subplots(1, 2, figsize=(11, 4.2), dpi=120, facecolor="white", layout="constrained")
    kinds = {"application": 0.95, "broker": 0.6, "database": 0.3}
    width = 0.38
    for contender, colour, shift in ((OURS, "#0b5fa5", -width / 2), (PEER, "#c8660a", width / 2)):
        places = [index + shift for index in range(len(numbers))]
        mine = [of(runs, contender, clients) for clients in numbers]
        bars = rate.bar(
            places, [median(run.per_second for run in one) for one in mine], width * 0.95, color=colour, label=contender
        )
        rate.bar_label(bars, fmt="%.0f", padding=2)
        bottom = [0.0] * len(numbers)
        for kind, alpha in kinds.items():
            height = [median(getattr(run, f"{kind}_ms") for run in one) for one in mine]
            bars = cpu.bar(
                places,
                height,
                width * 0.95,
                bottom=bottom,
                color=colour,
                alpha=alpha,
                edgecolor="white",
                label=f"{contender}: {kind}",
            )
            bottom = [low + high for low, high in zip(bottom, height, strict=True)]
        cpu.bar_label(bars, labels=[f"{median(run.cpu_ms for run in one):.1f}" for one in mine], padding=2)
    rate.set(title="Orders a second (more is better)")
    cpu.set(title="CPU milliseconds an order (less is better)")
    for axes, columns in ((rate, 2), (cpu, 2)):
        axes.set_xticks(range(len(numbers)), [f"{clients} client{'s' * (clients > 1)}" for clients in numbers])
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)
        axes.legend(ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    figure.savefig(file, metadata={"Software": None})
    pyplot.close(figure)


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results.json, results.md and, where there is a comparison, results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results))
    if "compare" in results:
        plot(runs_of(results["compare"]["runs"]), folder / "results.png")
