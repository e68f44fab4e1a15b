"""What a round costs: a fixed part, and a part for each item in it. Found by least squares from measured rounds."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Milliseconds of CPU: `round_ms` for a round, and `item_ms` for each item in it."""

    round_ms: float = 0.0
    item_ms: float = 0.0

    def of(self, items: float) -> float:
        """Return what a round of so many items costs."""
        return self.round_ms + self.item_ms * items

    def per_item(self, batch: float) -> float:
        """Return what each item costs in rounds of `batch` items."""
        return self.round_ms / batch + self.item_ms

    def __mul__(self, share: float) -> "Cost":
        return Cost(self.round_ms * share, self.item_ms * share)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.round_ms + other.round_ms, self.item_ms + other.item_ms)


def fit(measured: Iterable[tuple[float, float]]) -> Cost:
    """Return the cost that fits pairs of (items in a round, milliseconds an item) best, without a part below zero."""
    points = [(1 / batch, ms) for batch, ms in measured]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(slope, 0.0)
    item = mean_y - slope * mean_x
    if item < 0:  # the line through zero that fits best
        return Cost(sum(x * y for x, y in points) / sum(x * x for x, _ in points), 0.0)
    return Cost(slope, item)
