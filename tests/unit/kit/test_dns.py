"""A name server that is silent stops neither the event loop nor a deadline."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import eventlet
import pytest
from eventlet import Timeout, patcher

from services.kit.dns import Names
from services.kit.errors import Unavailable
from services.local.stack import ROOT
from tests.unit.kit.loop import longest_stop

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 5432))]
SLOW_S = 2.0  # a look-up
LOOP_S = 0.5  # the event loop may stand still for so long on a busy machine


class Server:
    """A look-up that takes its time, and counts the questions."""

    def __init__(self, takes_s: float, answer: object = FOUND) -> None:
        self.takes_s = takes_s
        self.answer = answer
        self.asked = 0

    def __call__(self, *question: object) -> Any:
        self.asked += 1
        patcher.original("time").sleep(self.takes_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


#: A network and mounts of its own; root needs no user namespace for that, which a chroot would refuse.
UNSHARE = ("unshare", "-mn" if os.geteuid() == 0 else "-rmn")


def may_unshare() -> bool:
    return bool(shutil.which("unshare") and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0)


@pytest.fixture
def stopped_s() -> Iterator[list[float]]:
    with longest_stop() as longest:
        yield longest


def test_a_slow_look_up_is_given_up_in_time_and_stops_nobody_else(stopped_s):
    names, started = Names(Server(SLOW_S)), time.monotonic()
    with pytest.raises(Unavailable), Timeout(0.2, Unavailable("too late")):
        names.addresses("slow.example", 10)
    with pytest.raises(socket.gaierror, match="did not answer"):
        names.addresses("slow.example", 0.2)
    assert 0.4 <= time.monotonic() - started < 0.4 + 2 * LOOP_S
    assert stopped_s[0] < LOOP_S
    assert names.addresses("slow.example", 10) == ["192.0.2.1"]  # the first look-up went on meanwhile


def test_a_name_is_looked_up_once_at_a_time_and_kept_for_a_while():
    server = Server(0.1)
    names = Names(server, keep_s=0.2)
    waiting = [eventlet.spawn(names.addresses, "db.example", 5) for _ in range(50)]
    assert [one.wait() for one in waiting] == [["192.0.2.1"]] * 50
    assert names.addresses("db.example", 5) == ["192.0.2.1"]
    assert server.asked == 1
    eventlet.sleep(0.25)
    assert names.addresses("db.example", 5) == ["192.0.2.1"]
    assert server.asked == 2


def test_a_name_that_is_not_known_is_an_error_for_all_and_asked_for_again():
    server = Server(0.05, socket.gaierror(socket.EAI_NONAME, "not known"))
    names = Names(server)
    waiting = [eventlet.spawn(names.addresses, "nobody.example", 5) for _ in range(2)]
    for one in waiting:
        with pytest.raises(socket.gaierror, match="not known"):
            one.wait()
    server.answer = FOUND
    assert names.addresses("nobody.example", 5) == ["192.0.2.1"]
    assert server.asked == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
def test_an_address_is_not_looked_up(host):
    server = Server(0)
    assert Names(server).getaddrinfo(host, 5672, type=socket.SOCK_STREAM)[0][4][1] == 5672
    assert server.asked == 0


@pytest.mark.skipif(not may_unshare(), reason="needs a network of its own (unshare)")
def test_the_database_and_the_broker_are_given_up_in_time_when_the_name_server_is_silent(tmp_path: Path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    mount = "mount --bind resolv.conf /etc/resolv.conf && mount --bind nsswitch.conf /etc/nsswitch.conf"
    run = subprocess.run(
        [
            *(*UNSHARE, "sh", "-c"),
            f'{mount} && cd "$1" && exec "$2" -W ignore -m tests.unit.kit.silent_names',
            *("sh", str(ROOT), sys.executable),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.split() == ["DatabaseAway", "OperationalError"], run.stderr
