"""What a simulation is made of: time, cores, processes that do one job at a time, and rounds.

The same seed gives the same figures.
"""

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

Then = Callable[[], None]
SPREAD = (0.7, 1.3)  # a job takes its measured time by a random factor between these


class Clock:
    """The time of the simulation, in milliseconds, and what happens when."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._next: list[tuple[float, int, Then]] = []
        self._count = 0

    def after(self, ms: float, then: Then) -> None:
        self._count += 1  # what is due at the same time happens in the order in which it was asked for
        heapq.heappush(self._next, (self.now + ms, self._count, then))

    def run_until(self, end_ms: float) -> None:
        while self._next and self._next[0][0] <= end_ms:
            self.now, _, then = heapq.heappop(self._next)
            then()


class Cores:
    """The cores of a machine; who is ready waits in line for one."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock = clock
        self.free = count
        self.ready: deque[Process] = deque()
        self.busy_ms: dict[str, float] = defaultdict(float)

    def parallel(self, kind: str, ms: float, then: Then) -> None:
        """Do a job that waits for nothing but a core."""
        Process(self, kind).run(ms, then)

    def take(self, process: "Process") -> None:
        self.ready.append(process)
        self._start()

    def _start(self) -> None:
        while self.free and self.ready:
            process = self.ready.popleft()
            self.free -= 1
            ms, then = process.jobs.popleft()
            ms *= self.clock.random.uniform(*SPREAD)
            self.busy_ms[process.kind] += ms
            self.clock.after(ms, partial(self._ended, process, then))

    def _ended(self, process: "Process", then: Then) -> None:
        self.free += 1
        then()
        if process.jobs:
            self.ready.append(process)
        else:
            process.is_busy = False
        self._start()


class Process:
    """Does its jobs one after the other."""

    def __init__(self, cores: Cores, kind: str) -> None:
        self.cores = cores
        self.kind = kind
        self.jobs: deque[tuple[float, Then]] = deque()
        self.is_busy = False

    def run(self, ms: float, then: Then) -> None:
        self.jobs.append((ms, then))
        if not self.is_busy:
            self.is_busy = True
            self.cores.take(self)


class Rounds:
    """Natural batching, as in services/kit/batching.py: what comes during a round is done in the next one."""

    def __init__(self, work: Callable[[list[Any], Then], None], most: int | None = None) -> None:
        self.work = work
        self.most = most
        self.waiting: list[Any] = []
        self.is_running = False
        self.rounds = self.items = 0

    def add(self, item: Any) -> None:
        self.waiting.append(item)
        if not self.is_running:
            self._next()

    def _next(self) -> None:
        most = self.most or len(self.waiting)
        items, self.waiting = self.waiting[:most], self.waiting[most:]
        self.is_running = bool(items)
        if items:
            self.rounds += 1
            self.items += len(items)
            self.work(items, self._next)
