"""A service that is asked to stop finishes what it has, and nobody notices."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from services.local.net import free_port, wait_for
from services.local.stack import ROOT, Stack
from tests.books import violations, wait_until_quiet
from tests.client import Api
from tests.commands import audit, replicas
from tests.conftest import QUICK
from tests.load import Load
from tests.selection import EACH_STYLE


@pytest.fixture(scope="module", params=EACH_STYLE)
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack in a style, with two replicas of each service."""
    with Stack(tmp_path_factory.mktemp("twins"), free_port(), QUICK, replicas=2, style=request.param) as running:
        yield running


def test_restarting_every_service_under_load_fails_no_request(twins: Stack, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    monkeypatch.setattr(twins.supervisor, "_say", lines.append)
    with Load(twins.url, clients=6, patient=False, pause_s=0.03) as load:
        wait_for(lambda: load.counted["paid"] > 20, 30, "the load to run")
        for round_ in in_rounds(dict(replicas(twins))):
            with ThreadPoolExecutor(len(round_)) as pool:
                list(pool.map(twins.supervisor.restart, round_))
            wait_for(twins.is_ready, 30, f"{', '.join(round_)} to be ready again")
            assert not any(process.is_running() for process in round_.values())
            for name in round_:
                assert f"{name}: ended with code 0, starts again as asked" in lines
    assert load.failures == []
    assert load.counted["requests"] > 100
    wait_until_quiet(twins)
    assert violations(twins) == []
    audit(twins)


def in_rounds(processes: dict[str, psutil.Process]) -> Iterator[dict[str, psutil.Process]]:
    """Yield the processes two at a time, which are never the two replicas of one service."""
    names = sorted(processes, key=lambda name: (name[-2:] == "-2", name))
    for first, second in zip(names[::2], names[1::2], strict=True):
        yield {first: processes[first], second: processes[second]}


def test_a_service_that_is_asked_to_stop_exits_with_0_once_it_is_done(
    stack: Stack, api: Api, monkeypatch: pytest.MonkeyPatch
):
    user_id = api.new_user(balance=1000)["id"]
    lines: list[str] = []
    monkeypatch.setattr(stack.supervisor, "_say", lines.append)  # what the supervisor says of the end of its child
    for service in stack.ports:
        lines.clear()
        pid = stack.supervisor.pid(service)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(api.order, user_id, 1, f"{service} {number}") for number in range(40)]
            psutil.Process(pid).send_signal(signal.SIGTERM)
        wait_for(lambda service=service, pid=pid: stack.supervisor.pid(service) not in (None, pid), 30, "a new process")
        assert any(line.startswith(f"{service}: ended with code 0") for line in lines), lines
        assert {answer.result().status_code for answer in answers} <= {201, 202, 503}
        wait_for(stack.is_ready, 30, "the stack to be ready")
    wait_until_quiet(stack)
    assert violations(stack) == []


def test_a_client_that_keeps_its_connection_is_told_to_close_it(stack: Stack):
    [port] = stack.ports["orders"]
    pid = stack.supervisor.pid("orders")
    request = b"GET /orders?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        assert b"Connection: close" not in connection.recv(65536)
        psutil.Process(pid).send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(port), 10, "the service to accept no more connections")
        connection.sendall(request)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200") and b"Connection: close" in answer
        assert connection.recv(65536) == b""
    wait_for(stack.is_ready, 30, "the stack to be ready")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_takes_too_long_to_drain_is_cut_off(stack: Stack, api: Api):
    user_id = api.new_user(balance=5)["id"]
    assert stack.postgres
    pid = stack.supervisor.pid("notifications")
    assert pid is not None
    with suspended(stack.postgres.pid):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(Api(f"http://127.0.0.1:{stack.ports['notifications'][0]}").get, "/notifications")
            started = time.monotonic()
            psutil.Process(pid).send_signal(signal.SIGTERM)
            wait_for(lambda: stack.supervisor.pid("notifications") != pid, 15, "the process to end")
            assert time.monotonic() - started < 12
            waiting.exception()
    wait_for(stack.is_ready, 60, "the stack to be ready")
    assert api.order(user_id, 5).json()["status"] == "paid"
    api.letters(user_id, 1)


@pytest.mark.parametrize("module", ["services.orders.broker", "services.billing.events"])
def test_a_service_that_has_never_seen_its_broker_ends_as_quietly(module: str, tmp_path: Path):
    nowhere = "postgresql+psycopg2://postgres@127.0.0.1:1/nowhere"
    log = tmp_path / "service.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "nameko", "run", "--config", "config.yaml", module],
            cwd=ROOT,
            stdout=written,
            stderr=written,
            env={
                **os.environ,
                "AMQP_URI": "amqp://guest:guest@127.0.0.1:1/",
                "ORDERS_DATABASE_URL": nowhere,
                "BILLING_DATABASE_URL": nowhere,
                "WEB_SERVER_ADDRESS": f"127.0.0.1:{free_port()}",
            },
        )
    try:
        wait_for(lambda: "cannot connect to the broker" in log.read_text(), 30, "it to miss the broker")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
    assert "stopping services" in log.read_text()
    assert "Traceback" not in log.read_text()


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """A server and all its processes do not run meanwhile."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a process of a database ends with its connection
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()
