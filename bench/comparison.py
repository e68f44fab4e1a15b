"""Contenders that were loaded in turns: the medians of each, and their ratios pair by pair."""

from collections.abc import Callable, Iterable, Sequence
from math import nan
from statistics import median

from bench.load import Run

OURS = "nameko-hw"

Figure = Callable[[Run], float]

#: What is compared, with its unit, how it is read off a run, and how it is written.
FIGURES: dict[str, tuple[Figure, str]] = {
    "orders/s": (lambda run: run.per_second, ".0f"),
    "orders/s, to the last letter": (lambda run: run.per_second_to_letter, ".0f"),
    "p50, ms": (lambda run: run.p50_ms, ".1f"),
    "p99, ms": (lambda run: run.p99_ms, ".1f"),
    "CPU ms/order": (lambda run: run.cpu_ms, ".2f"),
    "... application": (lambda run: run.application_ms, ".2f"),
    "... broker": (lambda run: run.broker_ms, ".2f"),
    "... database": (lambda run: run.database_ms, ".2f"),
}
LEADING = ("orders/s", "p99, ms", "CPU ms/order")
PARTS_OF_CPU = ("... application", "... broker", "... database")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(runs: Iterable[Run], contender: str, clients: int) -> list[Run]:
    """Return the runs of one contender with this number of clients, in their order."""
    return [run for run in runs if (run.contender, run.clients) == (contender, clients)]


def names(runs: Iterable[Run]) -> list[str]:
    """Return the contenders in the order of their turns."""
    return list(dict.fromkeys(run.contender for run in runs))


def numbers(runs: Iterable[Run]) -> list[int]:
    """Return the numbers of clients that there were."""
    return sorted({run.clients for run in runs})


def ratios(runs: Sequence[Run], one: str, other: str, clients: int, figure: Figure) -> list[float]:
    """Return `one` divided by `other`, pair by pair: the first run of each, the second of each, and so on."""
    pairs = zip(of(runs, one, clients), of(runs, other, clients), strict=True)
    return [figure(a) / figure(b) if figure(b) else nan for a, b in pairs]  # CPU is counted in ticks of 10 ms


def middle(runs: Sequence[Run], contender: str, clients: int, name: str) -> str:
    """Return the median of a figure over the runs of a contender, as it is written."""
    figure, form = FIGURES[name]
    return format(median(map(figure, of(runs, contender, clients))), form)


def against_peers(runs: Sequence[Run]) -> str:
    """Return the table of all contenders, with the median of the ratios of ours to each; then what it is made of."""
    peers = [name for name in names(runs) if name != OURS]
    head = ["", "clients"]
    for name in LEADING:
        head += [name, "ours / theirs"]
    rows = []
    for clients in numbers(runs):
        for contender in [OURS, *peers]:
            row = [contender, str(clients)]
            for name in LEADING:
                found = ratios(runs, OURS, contender, clients, FIGURES[name][0])
                row += [middle(runs, contender, clients, name), "" if contender == OURS else f"**{median(found):.2f}**"]
            rows.append([*row, *(middle(runs, contender, clients, name) for name in PARTS_OF_CPU)])
    return "\n\n".join(
        [
            table([*head, *PARTS_OF_CPU], rows),
            f"Each figure is the median of {turns(runs)} runs, each ratio the median of the ratios pair by pair. "
            "Above 1 is better for orders/s, below 1 for all others. "
            f"There were {total(runs)} orders in all, each of them finished.",
            "![Orders a second, p99 and CPU an order, of all contenders](results.png)",
            "### All figures",
            medians(runs, [OURS, *peers]),
            *(part for peer in peers for part in (f"### {OURS} / {peer}, pair by pair", by_pair(runs, OURS, peer))),
        ]
    )


def comparison(runs: Sequence[Run], one: str, other: str) -> str:
    """Return the medians of both, then the ratio of each pair and their median."""
    return "\n\n".join(
        [
            f"Medians of {turns(runs)} runs each; {total(runs)} orders in all, each of them finished:",
            medians(runs, [one, other]),
            f"Ratios, {one} to {other}, pair by pair:",
            by_pair(runs, one, other),
        ]
    )


def turns(runs: Sequence[Run]) -> int:
    """Return how often each contender was loaded with each number of clients."""
    return len(of(runs, runs[0].contender, runs[0].clients))


def total(runs: Sequence[Run]) -> int:
    return sum(run.orders for run in runs)


def medians(runs: Sequence[Run], contenders: Sequence[str]) -> str:
    """Return all figures of the contenders."""
    return table(
        ["", "clients", *FIGURES],
        [
            [contender, str(clients), *(middle(runs, contender, clients, name) for name in FIGURES)]
            for clients in numbers(runs)
            for contender in contenders
        ],
    )


def by_pair(runs: Sequence[Run], one: str, other: str) -> str:
    """Return the ratio of each pair for every figure, and their median."""
    rows = []
    for clients in numbers(runs):
        for name, (figure, _) in FIGURES.items():
            found = ratios(runs, one, other, clients, figure)
            rows.append([name, str(clients), *(f"{ratio:.2f}" for ratio in found), f"**{median(found):.2f}**"])
    return table(["", "clients", *(f"pair {number}" for number in range(1, turns(runs) + 1)), "median"], rows)
