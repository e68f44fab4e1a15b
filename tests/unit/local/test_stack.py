"""The stack keeps its private servers running, even one that dies while it starts."""

from collections.abc import Callable

from services.kit.outbox.table import OutboxRow
from services.local import stack as module
from services.local.net import free_port, wait_for
from services.local.server import CannotStart
from services.local.stack import Stack
from services.shop import STYLES, services_with


class Server:
    """Stands for a server: each of its next starts fails with one of `failures`, then it runs."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.running = False

    def start(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.running = True


def test_a_server_that_dies_again_while_it_starts_is_started_until_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.1)
    said: list[str] = []
    stack = Stack(tmp_path, free_port(), say=said.append)
    stack.rabbitmq = Server(CannotStart("the node ended\nits log"), TimeoutError("waited"), FileNotFoundError(2, "no"))
    stack.postgres = Server()
    wait_for(rounds(stack), 10, "both servers to run")
    assert stack.postgres.running
    assert said[:3] == [
        "broker: died, starts again",
        "broker: did not start, is tried again in 0.1 s: the node ended",
        "database: died, starts again",
    ]
    assert len(said) == 4 * 2


def rounds(stack: Stack) -> Callable[[], bool]:
    def one() -> bool:
        stack.keep_servers_running()
        return bool(stack.rabbitmq and stack.rabbitmq.running)

    return one


def test_between_two_starts_there_is_a_pause(tmp_path):
    stack = Stack(tmp_path, free_port(), say=lambda _: None)
    stack.rabbitmq = server = Server(CannotStart("one"), CannotStart("two"))
    stack.postgres = None
    for _ in range(5):
        stack.keep_servers_running()
    assert len(server.failures) == 1


def test_another_private_broker_than_at_the_last_start_is_told_all_events_again(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(module, "publish_again", lambda url: told.append(url.rpartition("/")[2]))

    def start(brokers: int) -> list[str]:
        told.clear()
        Stack(tmp_path, free_port(), say=lambda _: None, style=STYLES["broker"], brokers=brokers)._tell_a_new_broker()
        return sorted(told)

    assert start(1) == start(1) == []
    assert start(3) == sorted(services_with(OutboxRow))
    assert start(3) == []
    assert start(1) == sorted(services_with(OutboxRow))
