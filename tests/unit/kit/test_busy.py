"""A key that was found locked is remembered for a moment, and one caller at a time finds that out."""

import time
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest

from services.kit import busy as module
from services.kit.busy import REMEMBERED_S, Busy


def test_what_was_found_locked_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    busy = Busy()
    busy.add("Ada")
    assert "Ada" in busy and "Bob" not in busy
    now += REMEMBERED_S
    assert "Ada" not in busy
    busy.add("Bob")
    assert "Bob" in busy and list(busy._until) == ["Bob"], "what is over is forgotten"


def waiting(deadline_s: float = 5.0) -> Any:
    busy = Busy()
    busy.container = SimpleNamespace(settings=SimpleNamespace(DB_TIMEOUT_S=deadline_s))
    return busy


def test_one_caller_of_a_key_waits_for_all_and_nobody_waits_for_another_key():
    busy = waiting()
    inside, most, let_in = 0, 0, list[bool]()

    def call(key: str, is_locked: bool) -> None:
        nonlocal inside, most
        with busy.one_at_a_time(key) as is_let_in:
            let_in.append(is_let_in)
            if is_let_in:
                inside += 1
                most = max(most, inside)
                eventlet.sleep(0.02)
                inside -= 1
                if is_locked:
                    busy.add(key)

    calls = [eventlet.spawn(call, "Ada", True) for _ in range(9)]
    for one in calls:
        one.wait()
    assert (most, let_in) == (1, [True] + [False] * 8)
    for one in [eventlet.spawn(call, name, False) for name in ("Bob", "Bob", "Eve")]:
        one.wait()
    assert most == 2 and let_in[9:] == [True] * 3, "those of one key one after the other"
    assert busy._queues == {}


def test_who_waits_for_too_long_is_not_let_in_and_leaves_nothing_behind():
    busy = waiting(0.02)
    with busy.one_at_a_time("Ada"):
        late = eventlet.spawn(lambda: list(busy_for(busy)))
        assert late.wait() == [False]
        with pytest.raises(ZeroDivisionError), busy.one_at_a_time("Bob") as is_let_in:
            assert is_let_in
            raise ZeroDivisionError
        started = time.monotonic()
        impatient = eventlet.spawn(lambda: list(busy_for(busy)))
        eventlet.sleep(0)
        impatient.kill()
        assert time.monotonic() - started < 1
    assert busy._queues == {}


def busy_for(busy: Busy) -> Any:
    with busy.one_at_a_time("Ada") as is_let_in:
        yield is_let_in
