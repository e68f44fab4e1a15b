"""A key that was found locked is remembered for a moment."""

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
