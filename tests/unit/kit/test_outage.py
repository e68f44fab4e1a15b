"""An outage is two lines in the log, however many notice it and however often."""

import pytest

from services.kit import outage as module
from services.kit.outage import LONGEST_PAUSE_S, Outage, next_pause_s


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log; by the clock, a second goes by each time that somebody looks at it."""
    now = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(now)))
    caplog.set_level("INFO")
    return caplog


def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(log: pytest.LogCaptureFixture):
    outage = Outage("the outbox", "the broker")
    outage.end()
    assert not outage.is_on and log.messages == []
    outage.begin("refused")
    outage.begin("timed out")
    assert outage.is_on and log.messages == ["the outbox paused: the broker is away (refused)"]
    outage.end()
    outage.end()
    assert not outage.is_on and log.messages[1:] == ["the outbox resumed: the broker is back after 1 s"]
    outage.begin("refused again")
    assert len(log.messages) == 3, "the next outage is another one"


def test_an_outage_is_over_when_it_is_over_for_all(log: pytest.LogCaptureFixture):
    outage = Outage("the outbox", "the database")
    outage.begin("refused", "Ada")
    outage.begin("refused", "Bob")
    outage.end("Ada")
    outage.end("Carl")
    assert outage.is_on and len(log.messages) == 1
    outage.end("Bob")
    assert not outage.is_on and len(log.messages) == 2


def test_pauses_grow_up_to_the_longest():
    pauses_s = [0.0]
    while pauses_s[-1] < LONGEST_PAUSE_S:
        pauses_s.append(next_pause_s(pauses_s[-1]))
    assert pauses_s == [0.0, 0.5, 1.0, 2.0, 4.0, 5.0]
    assert next_pause_s(LONGEST_PAUSE_S) == LONGEST_PAUSE_S
