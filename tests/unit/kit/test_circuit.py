"""After some calls without an answer the next ones fail at once, for pauses between which one call probes."""

import pytest

from services.kit.errors import Unavailable
from services.kit.web.client import FAILURES, Circuit, NoAnswer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Tried:
    """A circuit, and calls through it that end as they are told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.circuit = Circuit("billing", self.clock)

    def call(self, error: Exception | None) -> bool:
        """Return whether the call was let through."""
        through = False
        try:
            with self.circuit.passed("billing.x"):
                through = True
                if error:
                    raise error
                self.circuit.answered()
        except Exception as raised:
            assert raised is error or not through
        return through

    def pause_s(self) -> float:
        """Return how long no call is let through; a probe that gets no answer ends the measurement."""
        began = self.clock.now
        while not self.call(NoAnswer()):
            self.clock.now += 0.125
            assert self.clock.now - began < 60, "the pause does not end"
        return self.clock.now - began


def test_pauses_double_until_an_answer_comes():
    it = Tried()
    assert [it.call(NoAnswer()) for _ in range(FAILURES + 1)] == [True] * FAILURES + [False]
    assert [it.pause_s() for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    it.clock.now += 5
    assert it.call(None) and it.call(NoAnswer()) and it.call(NoAnswer()), "the outage is over"
    assert it.call(NoAnswer()) and not it.call(None)
    assert it.pause_s() == 0.5


def test_only_failures_in_a_row_count():
    it = Tried()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            assert it.call(NoAnswer())
        assert it.call(None)


def test_calls_that_began_before_the_pause_do_not_lengthen_it():
    it = Tried()
    early = [it.circuit.passed("billing.x") for _ in range(10)]
    for one in early:
        one.__enter__()
    for one in early:
        assert not one.__exit__(NoAnswer, NoAnswer(), None)
    assert it.pause_s() == 0.5


@pytest.mark.parametrize("error", [NoAnswer(), Unavailable(), ZeroDivisionError()])
def test_one_call_probes_at_a_time_however_it_ends(error):
    it = Tried()
    for _ in range(FAILURES):
        it.call(NoAnswer())
    it.clock.now += 0.5
    probe = it.circuit.passed("billing.x")
    probe.__enter__()
    it.clock.now += 100
    assert not it.call(None), "the probe is under way"
    assert not probe.__exit__(type(error), error, None)
    it.clock.now += 100
    assert it.call(None) and it.call(None)
