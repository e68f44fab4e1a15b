"""The broker of embedded mode: how long its consumers wait."""

import time
from collections.abc import Iterator

import pytest
from kombu import Connection

from services.local import broker


@pytest.fixture
def connection() -> Iterator[Connection]:
    with Connection(broker.URI) as connection:
        assert connection.default_channel
        yield connection


def waited_s(connection: Connection, timeout: float) -> float:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=timeout)
    return time.monotonic() - started


def test_a_consumer_waits_as_long_as_it_is_told(connection: Connection):
    assert 0.1 <= waited_s(connection, 0.1) < 5


def test_in_a_hurry_no_consumer_waits(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(broker.Transport, "_is_in_hurry", False)  # for the other tests, it is set back
    broker.Transport.hurry()
    assert waited_s(connection, 60) < 5
