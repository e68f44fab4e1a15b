"""Batches in any order of calls, deadlines, failures and time: nothing done twice, forgotten or waited for in vain."""

from collections import Counter
from itertools import count

import eventlet
from eventlet import Timeout
from eventlet.event import Event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy.exc import DataError

from services.kit.batching import Batcher
from services.kit.errors import Unavailable
from tests.clock import simulated_clock

ROUND_S = 5


class Late(Exception):
    """The caller's deadline."""


class Caller:
    """One call, when it began and ended, and how."""

    def __init__(self, item: int, deadline_s: float, now) -> None:
        self.item, self.deadline_s, self.began, self.ended = item, deadline_s, now(), None
        self.answer: object = None
        self.now = now

    def run(self, batcher: Batcher) -> None:
        try:
            with Timeout(self.deadline_s, Late()):
                self.answer = batcher.call(self.item)
        except Exception as error:
            self.answer = error
        self.ended = self.now()


class Batches(RuleBasedStateMachine):
    """A batcher whose work commits, refuses, loses its reply, fails or hangs, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = simulated_clock()
        self.now = self.simulation.__enter__()
        self.numbers = count()
        self.bad: set[int] = set()
        self.committed: Counter[int] = Counter()
        self.callers: list[Caller] = []
        self.under_way: Event | None = None
        self.round_items: set[int] = set()
        self.round_began = 0.0
        self.overlapped = False
        self.batcher = Batcher(self.work, ROUND_S, eventlet.spawn)

    def work(self, items):
        self.overlapped |= self.under_way is not None  # an error here would be told to the callers only
        self.under_way = Event()
        if not self.round_items.issuperset(items):  # else they are done again one by one
            self.round_items, self.round_began = set(items), self.now()
            assert all(self.callers[item].ended is None for item in items)
        try:
            how = self.under_way.wait()
        finally:
            self.under_way = None
        if how == "defect":
            raise KeyError("a defect")
        if any(item in self.bad for item in items):
            raise DataError("a bad one", {}, ValueError())
        self.committed.update(items)
        if how == "lost reply":
            raise Unavailable("the connection was cut")
        return [-item for item in items]

    def settle(self) -> None:
        """Let everybody run who can."""
        for _ in range(20):
            eventlet.sleep(0)

    @rule(deadline_s=st.sampled_from([1, 7, 20, 60]), is_bad=st.sampled_from([False, False, True]))
    def call(self, deadline_s: float, is_bad: bool) -> None:
        item = next(self.numbers)
        if is_bad:
            self.bad.add(item)
        caller = Caller(item, deadline_s, self.now)
        self.callers.append(caller)
        eventlet.spawn(caller.run, self.batcher)
        self.settle()

    @precondition(lambda self: self.under_way is not None)
    @rule(how=st.sampled_from(["commit", "commit", "lost reply", "lost reply", "defect"]))
    def go_on(self, how: str) -> None:
        if self.under_way is not None:
            self.under_way.send(how)
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 1, 2, 6]))
    def wait(self, seconds: float) -> None:
        eventlet.sleep(seconds)
        self.settle()

    @invariant()
    def a_round_ends(self) -> None:
        assert self.under_way is None or self.now() <= self.round_began + ROUND_S

    @invariant()
    def there_is_one_round_at_a_time(self) -> None:
        assert not self.overlapped

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert all(times == 1 for times in self.committed.values())

    @invariant()
    def nobody_waits_longer_than_its_own_deadline(self) -> None:
        for caller in self.callers:
            assert (self.now() if caller.ended is None else caller.ended) <= caller.began + caller.deadline_s + 0.001

    @invariant()
    def everybody_gets_its_own_answer(self) -> None:
        for caller in self.callers:
            if caller.ended is None:
                continue
            if not isinstance(caller.answer, Exception):
                assert caller.answer == -caller.item and self.committed[caller.item] == 1
            elif isinstance(caller.answer, DataError):
                assert caller.item in self.bad and not self.committed[caller.item]

    def teardown(self) -> None:
        """Let time pass, and everything that is under way succeed: nobody is left, and the batcher serves the next."""
        try:
            for _ in range(len(self.callers) + 5):
                self.go_on("commit")
                self.wait(6)
            assert all(caller.ended is not None for caller in self.callers)
            self.call(5, False)
            self.go_on("commit")
            assert self.callers[-1].answer == -self.callers[-1].item
        finally:
            self.simulation.__exit__(None, None, None)


TestBatches = Batches.TestCase
TestBatches.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
