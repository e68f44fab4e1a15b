"""What may be done to the processes of a stack from its page, and nothing else; with sleeping programs as services."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.net import accepts, wait_for
from services.local.page.control import Control, ControlClient, ControlServer, answer, children_of
from services.local.stack import Stack

SEEN_S = 5


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[tuple[Stack, ControlClient]]:
    """A stack of sleeping programs in place of the services."""
    stack = Stack(tmp_path, 1, say=lambda _: None)
    for name in ("users", "billing", "orders", "notifications", "gateway"):
        stack.supervisor.add(name, ["sleep", "60"])
    stack.supervisor.start()
    server = ControlServer(stack.control, tmp_path / "control")
    yield stack, ControlClient(tmp_path / "control")
    server.stop()
    stack.control.thaw_all()
    stack.supervisor.stop()


def state_of(client: ControlClient, name: str) -> tuple[str, int | None]:
    parts = client.parts()
    assert parts is not None
    return next((part["state"], part["pid"]) for part in parts if part["name"] == name)


def test_a_part_is_killed_and_comes_back(controlled):
    stack, client = controlled
    old = stack.supervisor.pid("billing")
    client.do("kill", "billing", 2)
    wait_for(lambda: state_of(client, "billing") == ("dead", None), SEEN_S, "the part to be so")
    wait_for(lambda: state_of(client, "billing")[1] not in (None, old), SEEN_S, "the part to be so")


def test_a_part_is_frozen_and_thawed(controlled):
    stack, client = controlled
    pid = stack.supervisor.pid("orders")
    client.do("freeze", "orders")
    assert state_of(client, "orders") == ("frozen", pid)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", SEEN_S, "the part to be so")
    client.do("thaw", "orders")
    assert state_of(client, "orders")[0] != "frozen"
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] != "T", SEEN_S, "the part to be so")


def test_a_frozen_part_is_restarted(controlled):
    stack, client = controlled
    pid = stack.supervisor.pid("users")
    client.do("freeze", "users")
    client.do("restart", "users")
    wait_for(lambda: state_of(client, "users")[1] not in (None, pid), SEEN_S, "the part to be so")
    assert state_of(client, "users")[0] != "frozen"


@pytest.mark.parametrize("action, part", [("kill", "gateway"), ("kill", "1"), ("explode", "billing"), ("kill", "../x")])
def test_nothing_else_is_killed(controlled, action, part):
    stack, client = controlled
    before = {name: stack.supervisor.pid(name) for name in stack.supervisor.names()}
    with pytest.raises(Exception, match="no such part"):
        client.do(action, part)
    assert before == {name: stack.supervisor.pid(name) for name in stack.supervisor.names()}


@pytest.mark.parametrize("line", [b"", b"nonsense\n", b"[]\n", b"{}\n", b'{"action": "kill"}\n', b"x" * 5000 + b"\n"])
def test_nonsense_on_the_socket_changes_nothing(controlled, line):
    _, client = controlled
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(client.path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b"null\n"
    assert client.parts()


def test_only_its_own_user_may_open_the_socket(controlled):
    assert controlled[1].path.stat().st_mode & 0o777 == 0o600


def test_a_stack_that_does_not_answer_is_said_to_be_away(tmp_path):
    nobody = ControlClient(tmp_path / "nothing")
    assert nobody.parts() is None
    with pytest.raises(Exception, match="does not answer"):
        nobody.do("kill", "billing")


def test_the_processes_below_a_process_are_found():
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in children_of(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_a_port_accepts_or_not():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert accepts(port)
    assert not accepts(port)


def test_control_of_a_stack_without_servers_has_no_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("AMQP_URI", "amqp://x")
    for service in ("USERS", "BILLING", "ORDERS", "NOTIFICATIONS"):
        monkeypatch.setenv(f"{service}_DATABASE_URL", "postgresql://x@127.0.0.1:1/x")
    assert not Control(Stack(tmp_path, 1, say=lambda _: None)).stack.servers


def test_without_a_standby_nothing_is_promoted_and_the_answer_says_why(tmp_path):
    control = Control(Stack(tmp_path, 1, say=lambda _: None))
    assert answer(control, b'{"action": "promote"}') == "there is no standby: start the stack with STANDBY=1"
