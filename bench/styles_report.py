"""The measured part of docs/comparison.md: tables between two comments, and three plots.

The same numbers give the same files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.outages import AFTER_S
from bench.report import table
from bench.written import Written
from services.local.stack import ROOT

DARK = ROOT / "docs" / "tools" / "dark.css"
PLOTS = ROOT / "docs" / "measured"
MEASURED = Written(
    ROOT / "docs" / "comparison.md", "<!-- measured: written by `make compare` -->", "<!-- end of what is measured -->"
)
STYLES = ("http", "broker", "events")
COLOURS = {"accepted": "#4477aa", "decided": "#228833", "letters": "#ee6677"}
Run = dict[str, Any]

#: What is compared, how it is read off a run, and how it is written.
FIGURES: dict[str, tuple[Callable[[Run], float], str]] = {
    "orders/s, to the last letter": (lambda run: run["per_second"], ".0f"),
    "answer p50, ms": (lambda run: run["answer_ms"][0], ".1f"),
    "p99": (lambda run: run["answer_ms"][1], ".0f"),
    "decision p50, ms": (lambda run: run["decision_ms"][0], ".1f"),
    "p99 ": (lambda run: run["decision_ms"][1], ".0f"),
    "letter p50, ms": (lambda run: run["letter_ms"][0], ".1f"),
    "p99  ": (lambda run: run["letter_ms"][1], ".0f"),
    "CPU ms an order: services": (lambda run: run["services_ms"], ".2f"),
    "broker": (lambda run: run["broker_ms"], ".2f"),
    "database": (lambda run: run["database_ms"], ".2f"),
}
RATIOS = {
    "orders/s": lambda run: run["per_second"],
    "answer p50": lambda run: run["answer_ms"][0],
    "letter p50": lambda run: run["letter_ms"][0],
    "CPU an order": lambda run: cpu(run),
}


def cpu(run: Run) -> float:
    return float(run["services_ms"] + run["broker_ms"] + run["database_ms"])


def of(runs: Sequence[Run], style: str, clients: int) -> list[Run]:
    """Return the runs of a style with this number of clients, in their order."""
    return [run for run in runs if (run["style"], run["clients"]) == (style, clients)]


def markdown(results: dict[str, Any]) -> str:
    """Return the measured part of the page."""
    parts = [f"Measured on {machine(results['machine'])}."]
    if "speed" in results:
        parts += speed(**results["speed"])
    if "outages" in results:
        parts += outages(**results["outages"])
    return "\n\n".join(parts)


def machine(described: dict[str, str]) -> str:
    """Return hardware and versions in one line."""
    plain = ("processor", "memory", "system")
    return ", ".join(value if name in plain else f"{name} {value}" for name, value in described.items())


def speed(runs: Sequence[Run], counts: Sequence[Run], steady: Sequence[Run], rate: int) -> list[str]:
    numbers = sorted({run["clients"] for run in runs})
    rounds = len(of(runs, "broker", numbers[0]))
    medians = [[style, str(clients), *middles(of(runs, style, clients))] for clients in numbers for style in STYLES]
    ratios = []
    for clients in numbers:
        for style in ("http", "events"):
            pairs = list(zip(of(runs, style, clients), of(runs, "broker", clients), strict=True))
            ratios.append([f"{style} to broker", str(clients), *(by_pair(pairs, one) for one in RATIOS.values())])
    return [
        "### Speed",
        f"Medians of {rounds} rounds, the styles in turns; "
        f"{sum(run['orders'] for run in [*runs, *steady])} orders in all, each of them finished. Times count from when "
        "the client sent the order; a decision or a letter is there when it is committed.",
        table(["style", "clients", *FIGURES], medians),
        "Ratios to the default style, round by round, and their median:",
        table(["", "clients", *RATIOS], ratios),
        *at_a_rate(steady, rate),
        "![Orders a second, and the time to the answer, the decision and the letter](measured/speed.svg)",
        "![CPU an order, split into services, broker and database](measured/cpu.svg)",
        "Messages published to the broker, and transactions that changed something, for each order. What a style does "
        "when it has nothing to do is taken off:",
        table(
            ["style", "clients", "messages", "commits"],
            [[one["style"], str(one["clients"]), f"{one['messages']:.1f}", f"{one['commits']:.1f}"] for one in counts],
        ),
    ]


def at_a_rate(steady: Sequence[Run], rate: int) -> list[str]:
    """Return the table of the runs in which the clients send so many orders a second, or nothing without such runs."""
    if not steady:
        return []
    return [
        f"The same at {rate} orders a second, sent evenly, each on a connection of its own:",
        table(["style", *FIGURES], [[style, *middles(of(steady, style, 0))] for style in STYLES]),
    ]


def middles(runs: Sequence[Run]) -> list[str]:
    """Return the median of each figure."""
    return [format(median(map(figure, runs)), form) for figure, form in FIGURES.values()]


def by_pair(pairs: Sequence[tuple[Run, Run]], figure: Callable[[Run], float]) -> str:
    found = [figure(one) / figure(other) for one, other in pairs]
    return " ".join(f"{ratio:.2f}" for ratio in found) + f", **{median(found):.2f}**"


def outages(down_s: float, per_second: int, runs: Sequence[Run]) -> list[str]:
    return [
        "### Outages",
        f"{per_second} orders a second, whatever becomes of the others; the victim is away for {down_s:g} s. "
        "*Accepted* is the share of the orders sent meanwhile that were answered 201 or 202, *knew* the share that "
        f"was answered 201. *All decided* and *all letters* count from the return; the load goes on for {AFTER_S:g} s "
        "after it, so that is the least they can be.",
        table(
            ["victim", "", "style", "accepted", "knew", "longest answer", "all decided", "all letters", "violations"],
            [
                [
                    one["victim"],
                    one["way"],
                    one["style"],
                    f"{one['accepted']:.0%}",
                    f"{one['knew']:.0%}",
                    f"{one['longest_s']:.1f} s",
                    f"{one['decided_after_s']:.0f} s",
                    f"{one['letters_after_s']:.0f} s",
                    str(one["violations"]),
                ]
                for one in sorted(runs, key=lambda one: (one["victim"], one["way"], STYLES.index(one["style"])))
            ],
        ),
        "![Orders accepted, decided, and letters stored, second by second](measured/outages.svg)",
    ]


def write(results: dict[str, Any]) -> None:
    """Write the measured part of the page, and the plots."""
    MEASURED.write(markdown(results))
    PLOTS.mkdir(exist_ok=True)
    if "speed" in results:
        plot_speed(results["speed"]["runs"], PLOTS / "speed.svg")
        plot_cpu(results["speed"]["runs"], PLOTS / "cpu.svg")
    if "outages" in results:
        plot_outages(results["outages"], PLOTS / "outages.svg")


def figure_of(rows: int, columns: int, width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "nameko-hw", "font.size": 8})
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)


def save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    head, svg, rest = file.read_text().partition("<svg")
    tag, end, inside = rest.partition(">")
    file.write_text(f"{head}{svg}{tag}{end}<style>{DARK.read_text()}</style>{inside}")


def plot_speed(runs: Sequence[Run], file: Path) -> None:
    figure, [[rate, *times]] = figure_of(1, 4, 12, 3)
    numbers = sorted({run["clients"] for run in runs})
    places = range(len(numbers))
    shown: list[tuple[Any, str, Callable[[Run], float]]] = [
        (rate, "orders a second", lambda run: run["per_second"]),
        (times[0], "answer p50, ms", lambda run: run["answer_ms"][0]),
        (times[1], "decision p50, ms", lambda run: run["decision_ms"][0]),
        (times[2], "letter p50, ms", lambda run: run["letter_ms"][0]),
    ]
    for axes, title, value in shown:
        for number, style in enumerate(STYLES):
            heights = [median(map(value, of(runs, style, clients))) for clients in numbers]
            axes.bar([place + (number - 1) * 0.27 for place in places], heights, 0.25, label=style)
        axes.set_title(title)
        axes.set_xticks(list(places), [f"{clients} clients" for clients in numbers])
    rate.legend()
    save(figure, file)


def plot_cpu(runs: Sequence[Run], file: Path) -> None:
    figure, [[axes]] = figure_of(1, 1, 8, 3)
    bars = [(clients, style) for clients in sorted({run["clients"] for run in runs}) for style in STYLES]
    below = [0.0] * len(bars)
    for kind in ("services_ms", "broker_ms", "database_ms"):
        heights = [median(run[kind] for run in of(runs, style, clients)) for clients, style in bars]
        axes.bar(range(len(bars)), heights, bottom=below, label=kind.removesuffix("_ms"))
        below = [one + other for one, other in zip(below, heights, strict=True)]
    axes.set_xticks(range(len(bars)), [f"{style}\n{clients}" for clients, style in bars])
    axes.set_ylabel("CPU, ms an order")
    axes.legend()
    save(figure, file)


def plot_outages(measured: dict[str, Any], file: Path) -> None:
    strips = sorted({(one["victim"], one["way"]) for one in measured["runs"]})
    figure, grid = figure_of(len(strips), len(STYLES), 12, 1.3 * len(strips))
    for row, (victim, way) in zip(grid, strips, strict=True):
        for axes, style in zip(row, STYLES, strict=True):
            axes.set_title(f"{style}: {victim} {way}")
            for one in measured["runs"]:
                if (one["style"], one["victim"], one["way"]) == (style, victim, way):
                    axes.axvspan(3, 3 + measured["down_s"], color="#eeeeee")
                    for what, colour in COLOURS.items():
                        seconds = {int(second): count for second, count in one["timeline"][what].items()}
                        last = max(seconds, default=0)
                        axes.plot(
                            range(last + 1),
                            [seconds.get(second, 0) for second in range(last + 1)],
                            color=colour,
                            label=what,
                            linewidth=1,
                        )
            axes.set_ylim(0, 120)
    grid[0][0].legend()
    save(figure, file)
