"""The plot of all contenders: orders a second, the slowest answers, and CPU an order."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.comparison import names, numbers, of
from bench.load import Run

COLOURS = ("#0b5fa5", "#c8660a", "#2f7d32", "#7b4397")  # ours first
KINDS = {"application": 0.95, "broker": 0.6, "database": 0.3}  # of processes, and how solid their part of a bar is
WIDTH = 0.84  # of all bars at one number of clients


def draw(runs: Sequence[Run], file: Path) -> None:
    """Draw the medians of each contender at each number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    clients = numbers(runs)
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.4), dpi=110, facecolor="white", layout="constrained")
    rate, slowest, cpu = axes
    width = WIDTH / len(names(runs))
    for index, (contender, colour) in enumerate(zip(names(runs), COLOURS, strict=False)):
        places = [group + (index + 0.5) * width - WIDTH / 2 for group in range(len(clients))]
        mine = [of(runs, contender, number) for number in clients]
        bars: dict[str, Any] = {"width": width * 0.94, "color": colour}
        rates = [median(run.per_second for run in one) for one in mine]
        label(rate, rate.bar(places, rates, label=contender, **bars), "%.0f")
        p99s = [median(run.p99_ms for run in one) for one in mine]
        label(slowest, slowest.bar(places, p99s, **bars), "%.0f")
        bottom = [0.0] * len(clients)
        for kind, alpha in KINDS.items():
            height = [median(getattr(run, f"{kind}_ms") for run in one) for one in mine]
            drawn = cpu.bar(places, height, bottom=bottom, alpha=alpha, edgecolor="white", **bars)
            bottom = [low + high for low, high in zip(bottom, height, strict=True)]
        label(cpu, drawn, [f"{median(run.cpu_ms for run in one):.1f}" for one in mine])
    rate.set(title="Orders a second (more is better)")
    slowest.set(title="p99, milliseconds (less is better)")
    cpu.set(title="CPU milliseconds an order (less is better)")
    for one in axes:
        one.set_xticks(range(len(clients)), [f"{number} client{'s' * (number > 1)}" for number in clients])
        one.spines[["top", "right"]].set_visible(False)
        one.margins(y=0.12)
    kinds = [pyplot.Rectangle((0, 0), 1, 1, color="#444444", alpha=alpha) for alpha in KINDS.values()]
    cpu.legend(kinds, KINDS, frameon=False)
    figure.legend(ncols=len(COLOURS), loc="outside lower center", frameon=False)
    figure.savefig(file, metadata={"Software": None})
    pyplot.close(figure)


def label(axes: Any, bars: Any, texts: str | Sequence[str]) -> None:
    """Write the figures above the bars."""
    kind = {"fmt": texts} if isinstance(texts, str) else {"labels": texts}
    axes.bar_label(bars, padding=2, fontsize=8, **kind)
