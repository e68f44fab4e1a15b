"""Connecting to a broker of several nodes: each gets its share of the deadline, and the good one is tried first."""

import time
from collections.abc import Callable
from typing import Any

import eventlet
import pytest
from amqp.exceptions import NotAllowed
from eventlet import Timeout

from services.kit.amqp import nodes as module
from services.kit.amqp.nodes import Nodes, NodeSilent
from services.kit.errors import Unavailable

ONE, TWO, THREE = (f"amqp://{name}" for name in ("one", "two", "three"))


class Cluster:
    """A fake of kombu's connections. `does` says what a node does when one connects; by default it answers."""

    def __init__(self) -> None:
        self.does: dict[str, Callable[[], object]] = {}
        self.tried: list[str] = []
        self.closed: list[str] = []

    def __call__(self, uri: str, **_: Any) -> Any:
        return Connection(self, uri)


class Connection:
    connection = None  # no sockets

    def __init__(self, cluster: Cluster, uri: str) -> None:
        self.cluster = cluster
        self.hostname = uri.removeprefix("amqp://")

    def ensure_connection(self, max_retries: int) -> None:
        self.cluster.tried.append(self.hostname)
        self.cluster.does.get(self.hostname, lambda: None)()

    def collect(self) -> None:
        self.cluster.closed.append(self.hostname)


def refuse() -> None:
    raise ConnectionRefusedError


def freeze() -> None:
    eventlet.sleep(60)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "Connection", cluster)
    monkeypatch.setattr(module._random, "randrange", lambda _: 0)
    return cluster


def connect(nodes: Nodes, timeout_s: float = 0.3) -> Any:
    return nodes.connect(timeout_s, 0, lambda connection: connection)


@pytest.mark.parametrize("failure", [refuse, freeze])
def test_the_next_node_is_tried_when_one_fails_and_is_the_first_from_then_on(cluster, failure):
    cluster.does["one"] = failure
    nodes = Nodes(f"{ONE};{TWO};{THREE}")
    started = time.monotonic()
    assert connect(nodes, timeout_s=1.5).hostname == "two"
    assert time.monotonic() - started < 1.0
    assert connect(nodes).hostname == "two"
    assert (cluster.tried, cluster.closed) == (["one", "two", "two"], ["one"])


def test_after_a_lost_connection_another_node_is_tried_first_and_its_own_last(cluster):
    nodes = Nodes(f"{ONE};{TWO};{THREE}")
    first, second = connect(nodes), connect(nodes)
    nodes.leave(first)
    cluster.does["two"] = refuse
    assert connect(nodes).hostname == "three"
    nodes.leave(second)  # which was lost at the same time, and says nothing of node three
    assert connect(nodes).hostname == "three"


def test_what_is_done_on_the_connection_belongs_to_the_share_of_its_node(cluster):
    nodes = Nodes(f"{ONE};{TWO}")

    def use(connection: Any) -> Any:
        if connection.hostname == "one":
            freeze()
        return connection.hostname

    assert nodes.connect(0.2, 0, use) == "two"


def test_when_all_fail_the_last_error_is_raised_and_each_was_tried_once(cluster):
    def refuse_login() -> None:
        raise NotAllowed("no such vhost")

    cluster.does = {"one": freeze, "two": refuse_login}
    with pytest.raises(NotAllowed):
        connect(Nodes(f"{ONE};{TWO}"))
    cluster.does["two"] = freeze
    with pytest.raises(NodeSilent, match="two did not answer"):
        connect(Nodes(f"{ONE};{TWO}"))
    assert cluster.tried == cluster.closed == ["one", "two"] * 2


def test_the_deadline_of_a_caller_ends_the_search_and_its_next_one_begins_elsewhere(cluster):
    cluster.does["one"] = freeze
    nodes = Nodes(f"{ONE};{TWO}")
    with pytest.raises(Unavailable), Timeout(0.05, Unavailable()):
        connect(nodes, 60)
    assert connect(nodes).hostname == "two"


def test_processes_begin_at_any_of_the_nodes(cluster, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(module, "Connection", cluster)
    assert {connect(Nodes(f"{ONE};{TWO};{THREE}")).hostname for _ in range(100)} == {"one", "two", "three"}
