"""How long a service may take to stop."""

from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet import Timeout
from nameko.containers import ServiceContainer

from services.kit.container import Container
from services.kit.tracing import Tracer


def test_what_does_not_drain_in_time_is_killed(monkeypatch: pytest.MonkeyPatch):
    killed: list[bool] = []
    monkeypatch.setattr(ServiceContainer, "stop", lambda self: eventlet.sleep(20))
    monkeypatch.setattr(ServiceContainer, "kill", lambda self: killed.append(True))
    container: Any = object.__new__(Container)
    container.settings, container.service_name = SimpleNamespace(DRAIN_TIMEOUT_S=0.05), "orders"
    container.tracer = Tracer()
    with Timeout(5, ValueError("it drains for ever")):
        container.stop()
    assert killed == [True]
