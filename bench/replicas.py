"""One replica of each service against two, behind the same gateway."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.contenders import Ours, Servers, running
from bench.load import in_turns

ONE, TWO = "1 replica", "2 replicas"


def measure(folder: Path, clients: Iterable[int], pairs: int, seconds: float) -> dict[str, Any]:
    """Load both in turns, each with servers of its own."""
    with Servers(folder / "one") as first, Servers(folder / "two") as second:
        one, two = Ours(first, ONE, replicas=1, by_gateway=True), Ours(second, TWO, replicas=2, by_gateway=True)
        with running(one, two) as users:
            return {"runs": [vars(run) for run in in_turns([one, two], users, clients, pairs, seconds)]}
