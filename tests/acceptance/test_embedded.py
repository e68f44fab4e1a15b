"""Embedded mode: one process beside PostgreSQL, data that stays, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from services.local.net import wait_for
from services.local.postgres import NOBODY
from services.local.stack import ROOT
from services.local.supervisor import dies_with_parent
from tests.client import Api
from tests.conftest import Embedded


def processes_of(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if str(folder) in " ".join(command_of(process))]


def processes_with(last_words: list[str]) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if command_of(process)[-len(last_words) :] == last_words]


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process; nothing for one that has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_it_stops_with_nothing_left_and_keeps_its_data(tmp_path: Path, number: signal.Signals):
    running = Embedded(tmp_path)
    with running, Api(running.url) as api:
        user_id = api.new_user(balance=70)["id"]
        order = api.ended_order(user_id, 30)
        letters = api.addressed_letters(user_id, 1)
        assert processes_of(tmp_path)
        assert running.stop(number) == 0
    assert processes_of(tmp_path) == []
    assert "Traceback" not in running.log.read_text()
    with running, Api(running.url) as api:
        assert api.balance(user_id) == 40
        assert api.get(f"/orders/{order['id']}").json() == order
        assert api.letters(user_id) == letters


def test_a_letter_is_not_lost_when_the_process_is_killed(tmp_path: Path):
    running = Embedded(tmp_path)
    with running, Api(running.url) as api:
        user_id = api.new_user(balance=100)["id"]
        for _ in range(20):
            api.order(user_id, 1)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(10)
        wait_for(lambda: not processes_of(tmp_path), 20, "PostgreSQL to end with its parent")
    with running, Api(running.url) as api:
        assert len(api.letters(user_id, 20)) == 20
        assert api.balance(user_id) == 80


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.strip() == f"nameko-hw: port {port}: Address already in use. Choose another with PORT=..."


@pytest.mark.parametrize("port", ["x", "-1", "70000", ""])
def test_a_port_that_is_none_is_named(port: str):
    refused = run("--port", port)
    assert refused.returncode == 2
    assert "is not a port" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_the_system_chose_is_printed(tmp_path: Path):
    with started(tmp_path) as process:
        assert process.stdout is not None
        address = next(line.split()[-1] for line in process.stdout if line.startswith("Serving on "))
        with Api(address) as api:
            assert api.is_ready()


def test_a_folder_of_another_user_is_named_in_one_line(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o555)
    prefix: list[str] = []
    if os.geteuid() == 0:  # then it is another's, and we are a root that may not look away from that
        os.chown(theirs, NOBODY, NOBODY)
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    with started(theirs / "data", prefix) as process:
        assert process.wait(60) == 1
        assert process.stdout is not None
        assert process.stdout.read() == (
            f"nameko-hw: {theirs / 'data'}: Permission denied. If another user made it, remove it with sudo\n"
        )


def test_it_stays_small(embedded: str):
    with Api(embedded) as api:
        user_id = api.new_user(balance=500)["id"]
        for _ in range(100):
            api.order(user_id, 1)
    [process] = processes_with(["--port", embedded.rpartition(":")[2]])
    assert process.memory_info().rss < 200 * 2**20


@contextmanager
def started(folder: Path, prefix: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
    """Embedded mode on a port that the system chooses; its output can be read."""
    command = [*prefix, *dies_with_parent("INT"), sys.executable, "-m", "services.ops.cli", "run", "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NAMEKO_HW_FOLDER": str(folder)},
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
