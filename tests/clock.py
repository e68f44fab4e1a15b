"""A simulated clock for green threads: time passes only while nobody has anything to do, and then at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from eventlet import hubs
from eventlet.hubs import hub
from eventlet.hubs.timer import Timer


class SimulatedHub(hub.BaseHub):
    """A hub whose waiting is done by setting its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._numbers = count()
        super().__init__(clock=lambda: self.now)

    def add_timer(self, timer: Timer) -> float:
        """Number the timer: of those that are due at the same time, the first one that was added is served first."""
        timer.number = next(self._numbers)
        scheduled: float = super().add_timer(timer)
        return scheduled

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
    by_address = Timer.__lt__  # another order in each run
    Timer.__lt__ = lambda one, other: one.number < other.number
    try:
        yield simulated.clock
    finally:
        hubs._threadlocal.hub = before
        Timer.__lt__ = by_address
