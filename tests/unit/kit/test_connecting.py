"""Which hosts of a database URL are asked, at which addresses, and for how long."""

import socket
import time
from types import SimpleNamespace
from typing import Any, cast

import eventlet
import psycopg2
import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg2 import dialect as Dialect

from services.kit.db import connecting
from services.kit.dns import Names

ADDRESSES = {"one.example": ["192.0.2.1"], "two.example": ["192.0.2.2", "192.0.2.3"]}


def look_up(host: str, *_: Any) -> list:
    if host not in ADDRESSES:
        raise socket.gaierror(socket.EAI_NONAME, "not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in ADDRESSES[host]]


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "NAMES", Names(look_up))


def asked(url: str, silent: bool = False, timeout_s: float = 1) -> list[tuple[str, str, str | None]]:
    """The host, port and address of each attempt to connect; all of them fail."""
    attempts = []

    def connect(**options: Any) -> None:
        attempts.append((options.get("host"), options.get("port"), options.get("hostaddr")))
        if silent:
            eventlet.sleep(60)
        raise psycopg2.OperationalError("refused")

    _, options = Dialect().create_connect_args(make_url(url))
    started = time.monotonic()
    with pytest.raises(psycopg2.OperationalError):
        connecting.connect(timeout_s, cast(Any, SimpleNamespace(connect=connect)), None, [], options)
    assert time.monotonic() - started < timeout_s + 0.5
    return attempts


@pytest.mark.parametrize(
    "url, attempts",
    [
        ("postgresql://u@one.example/d", [("one.example", "", "192.0.2.1")]),
        ("postgresql://u@one.example:6000/d", [("one.example", "6000", "192.0.2.1")]),
        ("postgresql://u@127.0.0.1:6000/d", [("127.0.0.1", "6000", "127.0.0.1")]),
        ("postgresql://u@[::1]:6000/d", [("::1", "6000", "::1")]),
        ("postgresql://u@/d?host=/run/postgresql", [("/run/postgresql", "", None)]),
        ("postgresql://u@/d", [(None, None, None)]),
        (
            "postgresql://u@/d?host=one.example:1&host=two.example:2",
            [("one.example", "1", "192.0.2.1"), ("two.example", "2", "192.0.2.2"), ("two.example", "2", "192.0.2.3")],
        ),
        (
            "postgresql://u@/d?host=one.example,two.example&port=7,8",
            [("one.example", "7", "192.0.2.1"), ("two.example", "8", "192.0.2.2"), ("two.example", "8", "192.0.2.3")],
        ),
        (
            "postgresql://u@/d?host=one.example&host=two.example",
            [("one.example", "", "192.0.2.1"), ("two.example", "", "192.0.2.2"), ("two.example", "", "192.0.2.3")],
        ),
        ("postgresql://u@/d?host=nobody.example:1&host=one.example:2", [("one.example", "2", "192.0.2.1")]),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_every_address_of_every_host_is_tried_in_time(url, attempts, silent):
    assert asked(url, silent) == attempts


def test_a_name_server_that_is_silent_leaves_time_for_the_next_host(monkeypatch):
    native_sleep = eventlet.patcher.original("time").sleep
    monkeypatch.setattr(connecting, "NAMES", Names(lambda *_: native_sleep(3) or []))
    assert asked("postgresql://u@/d?host=one.example:1&host=127.0.0.1:2") == [("127.0.0.1", "2", "127.0.0.1")]


@pytest.mark.parametrize("options", [{"host": "one.example", "hostaddr": "192.0.2.9"}, {"service": "shop"}])
def test_what_is_settled_already_is_left_to_libpq(options):
    assert connecting.connect(1, Dialect(), None, [], options) is None
