"""The measured part of docs/scale.md: tables between two comments, and three plots.

The same numbers give the same files.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.alone import Taken
from bench.comparison import numbers, table
from bench.costs import Cost
from bench.load import Run
from bench.sizing import SERVER_CORES, SERVICES, WAL_MB_S
from bench.styles_report import PLOTS, figure_of, machine, save
from bench.written import Written
from services.local.stack import ROOT

MEASURED = Written(
    ROOT / "docs" / "scale.md", "<!-- measured: written by `make scale` -->", "<!-- end of what is measured -->"
)
DATABASES = {service: f"{service}_database" for service in SERVICES}
FITTED = {
    **{service: service for service in SERVICES},
    **{name: f"database of {service}" for service, name in DATABASES.items()},
    "calls": "broker: a call of billing, and an event",
    "deliveries": "broker: deliveries to notifications",
}
LIMITS = {"load": "the load", "stub": "the stub"}
COLOURS = {"service": "#4477aa", "broker": "#228833", "database": "#ee6677"}


def markdown(results: dict[str, Any]) -> str:
    """Return the measured part of the page."""
    parts = [f"Measured on {machine(results['machine']['described'])}."]
    if "capacity" in results:
        parts += one_process(results["capacity"], results["computed"])
    if "capacity" in results and "system" in results:
        parts += checked(results["computed"]["predicted"], runs_of(results["system"]), results["system"]["others"])
    if "capacity" in results:
        parts += sizes(results["computed"])
    if "hot" in results:
        parts += hot(results["hot"])
    return "\n\n".join(parts)


def one_process(capacity: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    taken = [Taken(**one) for one in capacity["taken"]]
    rows = [
        [
            one.service,
            one.load,
            f"{one.batch:.1f}",
            f"{one.per_second:.0f}",
            LIMITS.get(one.limited_by, one.limited_by),
            f"{one.service_ms:.3f}",
            f"**{one.most_per_second:.0f}**",
            f"{one.broker_ms:.3f}",
            f"{one.database_ms:.3f}",
            f"{one.wal_bytes / 1000:.1f}",
        ]
        for one in taken
    ]
    head = ["process", "load", "orders a round", "orders/s", "limit", "CPU ms an order", "a core's worth, orders/s"]
    fitted = [
        [label, f"{computed['costs'][name]['round_ms']:.2f}", f"{computed['costs'][name]['item_ms']:.3f}"]
        for name, label in FITTED.items()
    ]
    return [
        "### One process of each service: measured",
        others(capacity["others"]) + " The limit is what was busy for more than 90% of the time: the process itself, "
        "what loads it, or all cores; *waiting* if it was neither, but round trips, the disk or other programs. "
        "*A core's worth* is what the process takes when a core is its own and always busy.",
        table([*head, "broker, CPU ms an order", "database", "WAL kB an order"], rows),
        "What a round costs, as the straight line that fits these figures best, in milliseconds of CPU; a commit "
        f"waits {capacity['sync_ms']:.2f} ms for the disk:",
        table(["", "a round", "and each order in it"], fitted),
        "![CPU an order by the number of orders in a round, for each service](measured/capacity.svg)",
    ]


def others(cores: float) -> str:
    return f"Other programs used {cores:.2f} cores meanwhile."


def checked(predicted: dict[str, dict[str, Any]], runs: Sequence[Run], cores: float) -> list[str]:
    """Return what the simulation says beside what was measured, with its error."""
    rows = []
    for clients in numbers(runs):
        rate, p50 = middles(runs, clients)
        said = predicted[str(clients)]
        rows.append(
            [
                str(clients),
                f"{said['per_second']:.0f}",
                f"{rate:.0f}",
                f"**{said['per_second'] / rate - 1:+.0%}**",
                f"{said['p50_ms']:.1f}",
                f"{p50:.1f}",
                f"**{said['p50_ms'] / p50 - 1:+.0%}**",
            ]
        )
    return [
        "### The simulation beside the system: computed, and measured",
        f"One process of each service, with servers and load, on this machine; medians. {others(cores)}",
        table(["clients", "orders/s, computed", "measured", "error", "p50 ms, computed", "measured ", "error "], rows),
        "![Orders a second and p50, computed and measured](measured/simulated.svg)",
    ]


def middles(runs: Sequence[Run], clients: int) -> tuple[float, float]:
    """Return the medians of orders a second and of p50."""
    mine = [run for run in runs if run.clients == clients]
    return median(run.per_second for run in mine), median(run.p50_ms for run in mine)


def sizes(computed: dict[str, Any]) -> list[str]:
    rows = []
    for one in computed["sizes"]:
        deployment, simulated = one["deployment"], one["simulated"]
        rows.append(
            [
                f"{one['rate']:,}",
                f"{one['share']:.0%}",
                *(str(deployment[service]) for service in SERVICES),
                f"{simulated['batch']:.1f}",
                f"{simulated['p50_ms']:.0f}",
                f"{simulated['p99_ms']:.0f}",
                f"{deployment['broker']} ({one['nodes']})",
                *(f"{deployment[name]} ({one['shards'][service]})" for service, name in DATABASES.items()),
                str(one["queues"]),
            ]
        )
    return [
        "### Deployments: computed",
        "Processes of each service, as the simulation needs them so that none is busy for more than about this share "
        "of its time; then the cores of the broker and of each database, and, in parentheses, how many servers of "
        f"{SERVER_CORES} cores, of which each writes {WAL_MB_S} MB/s of WAL at most; and over how many queues the "
        "events have to be spread.",
        table(
            [
                "orders/s",
                "busy",
                *SERVICES,
                "orders a round",
                "p50 ms",
                "p99 ms",
                "broker",
                *(f"database of {service}" for service in SERVICES),
                "queues",
            ],
            rows,
        ),
        "![Cores for each 1,000 orders a second](measured/sizes.svg)",
        "Where the first limits are, at full use, the lowest first:",
        table(
            ["", "orders/s", "beyond it"],
            [[one["what"], f"{one['per_second']:,.0f}", one["then"]] for one in computed["limits"]],
        ).replace("| --- | ---: | ---: |", "| --- | ---: | --- |"),
    ]


def hot(measured: dict[str, Any]) -> list[str]:
    rows = []
    for replicas in sorted({one["replicas"] for one in measured["runs"]}):
        for name in dict.fromkeys(one["contender"] for one in measured["runs"]):
            mine = [one for one in measured["runs"] if (one["replicas"], one["contender"]) == (replicas, name)]
            figures = [
                median(one[key] for one in mine) for key in ("per_second", "per_second_to_letter", "p50_ms", "p99_ms")
            ]
            rows.append([name, str(replicas), *(f"{one:.0f}" for one in figures)])
    clients = measured["runs"][0]["clients"]
    return [
        "### Hot accounts: measured",
        f"{clients} clients, through the gateway, in turns; medians. {others(measured['others'])}",
        table(["orders for", "processes of each service", "orders/s", "to the last letter", "p50 ms", "p99 ms"], rows),
    ]


def runs_of(part: dict[str, Any]) -> list[Run]:
    return [Run(**one) for one in part["runs"]]


def write(results: dict[str, Any]) -> None:
    """Write the measured part of the page, and the plots."""
    MEASURED.write(markdown(results))
    if "capacity" in results:
        plot_capacity([Taken(**one) for one in results["capacity"]["taken"]], results["computed"]["costs"])
        plot_sizes(results["computed"]["sizes"], PLOTS / "sizes.svg")
    if "capacity" in results and "system" in results:
        plot_simulated(results["computed"]["predicted"], runs_of(results["system"]), PLOTS / "simulated.svg")


def plot_capacity(taken: Sequence[Taken], costs: dict[str, Any], file: Path = PLOTS / "capacity.svg") -> None:
    figure, [row] = figure_of(1, 3, 12, 3.2)
    broker = {"orders": "calls", "notifications": "deliveries"}  # that of billing is a part of orders' calls
    for axes, service in zip(row, SERVICES, strict=True):
        mine = sorted((one for one in taken if one.service == service), key=lambda one: one.batch)
        fits = {"service": service, "broker": broker.get(service), "database": DATABASES[service]}
        batches = [mine[0].batch * (mine[-1].batch / mine[0].batch) ** (step / 40) for step in range(41)]
        for kind, colour in COLOURS.items():
            points = [getattr(one, f"{kind}_ms") for one in mine]
            axes.plot([one.batch for one in mine], points, "o", color=colour, markersize=4)
            if name := fits[kind]:
                cost = Cost(**costs[name])
                axes.plot(batches, [cost.per_item(batch) for batch in batches], color=colour, linewidth=1, label=kind)
        axes.set(xscale="log", title=service, xlabel="orders a round", ylim=(0, None))
        axes.set_xticks([1, 10, 64] if service == "billing" else [1, 10, 50], minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
    row[0].set_ylabel("CPU, ms an order")
    row[0].legend()
    save(figure, file)


def plot_simulated(predicted: dict[str, dict[str, Any]], runs: Sequence[Run], file: Path) -> None:
    figure, [row] = figure_of(1, 2, 8, 3)
    clients = numbers(runs)
    for place, (axes, key, title) in enumerate(
        zip(row, ("per_second", "p50_ms"), ("orders a second", "p50, ms"), strict=True)
    ):
        pairs = [(predicted[str(number)][key], middles(runs, number)[place]) for number in clients]
        for shift, (name, heights) in enumerate(zip(("computed", "measured"), zip(*pairs, strict=True), strict=True)):
            bars = axes.bar([at + (shift - 0.5) * 0.38 for at in range(len(clients))], heights, 0.36, label=name)
            axes.bar_label(bars, fmt="%.0f", padding=2)
        axes.set_title(title)
        axes.set_xticks(range(len(clients)), [f"{number} client{'s' * (number > 1)}" for number in clients])
        axes.margins(y=0.12)
    row[0].legend()
    save(figure, file)


def plot_sizes(computed: Sequence[dict[str, Any]], file: Path) -> None:
    figure, [[axes]] = figure_of(1, 1, 8, 3.2)
    below = [0.0] * len(computed)
    for kind in (*SERVICES, "broker", *DATABASES.values()):
        heights = [1000 * one["deployment"][kind] / one["rate"] for one in computed]
        axes.bar(range(len(computed)), heights, 0.6, bottom=below, label=FITTED.get(kind, kind))
        below = [one + other for one, other in zip(below, heights, strict=True)]
    names = [f"{one['rate']:,}/s\n{one['share']:.0%} busy" for one in computed]
    axes.set_xticks(range(len(computed)), names)
    axes.set_ylabel("cores for each 1,000 orders a second")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, file)
