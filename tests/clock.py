"""A simulated clock for green threads: time passes only while nobody has anything to do, and then at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eventlet import hubs
from eventlet.hubs import hub


class SimulatedHub(hub.BaseHub):
    """A hub whose waiting is done by setting its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(clock=lambda: self.now)

    def default_sleep(self) -> float:
        raise AssertionError("everybody waits for somebody else, and nobody for a moment in time")

    def wait(self, seconds: float | None = None) -> None:
        if seconds:
            self.now += seconds


@contextmanager
def simulated_clock() -> Iterator[Callable[[], float]]:
    """Give the clock of a hub of its own; what was spawned before does not run meanwhile."""
    before = hubs.get_hub()
    simulated = SimulatedHub()
    hubs._threadlocal.hub = simulated
    try:
        yield simulated.clock
    finally:
        hubs._threadlocal.hub = before
