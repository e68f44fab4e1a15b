"""A broker of three nodes loses one, or two, or one freezes: nothing is lost or doubled, and work goes on.

What is measured is printed: pytest -rP shows it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from kombu import Connection, Exchange, Queue

from services.kit.amqp.nodes import BROKER_DOWN, Nodes
from services.kit.amqp.publisher import ConfirmedChannel, Message
from services.kit.amqp.queues import arguments_of
from services.kit.errors import Unavailable
from services.local.cluster import Node
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from tests.books import broken_promises, rows, violations, wait_until_quiet
from tests.client import Api
from tests.conftest import QUICK
from tests.faults.answers import check_that_it_heals, statuses
from tests.faults.test_draining import suspended
from tests.load import Load

BROKERS = 3
UP_S = 60
WORK_S = 60
SOME = 10  # orders
PAUSE_S = 0.1
OUTAGE_S = 8
#: How long the first order after the loss of a node may take to be paid. A frozen one is given up after net_ticktime.
LOST_S = {"killed": 10, "frozen": 40}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("three"), free_port(), QUICK, brokers=BROKERS) as running:
        yield running


def nodes(stack: Stack) -> list[Node]:
    assert stack.cluster
    return stack.cluster.nodes


def node_of(stack: Stack, service: str) -> Node:
    """Return the node to which a service has most of its connections."""
    ports = [one.raddr.port for one in psutil.Process(stack.supervisor.pid(service)).net_connections() if one.raddr]
    return max(nodes(stack), key=lambda node: ports.count(node.port))


def leader_of(stack: Stack, queue: str) -> Node:
    """Return the node that leads a queue."""
    node = nodes(stack)[0]
    asked = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", node.node, "list_queues", "name", "leader"]
    listed = subprocess.run(asked, env=node._environment(), capture_output=True, text=True, check=True).stdout
    leaders = dict(line.split("\t") for line in listed.splitlines() if "\t" in line)
    [leader] = [one for one in nodes(stack) if one.node == leaders[queue]]
    return leader


def all_up(stack: Stack) -> bool:
    stack.keep_servers_running()
    return all(node.is_up for node in nodes(stack)) and stack.is_ready()


@contextmanager
def killed(stack: Stack, node: Node) -> Iterator[None]:
    """The node does not run meanwhile, and has had no time to say goodbye."""
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: not node.running, 10, "the node to be dead")
    yield


@contextmanager
def frozen(stack: Stack, node: Node) -> Iterator[None]:
    with suspended(node.pid):
        yield


def paid(stack: Stack, since: Any) -> int:
    """Return how many of the orders that were created since then are paid."""
    query = "select count(*) from orders where status = 'paid' and created_at > :since"
    [[count]] = rows(stack, "orders", query, since=since)
    return int(count)


@pytest.mark.parametrize(
    "loss, which",
    [
        (killed, lambda stack: leader_of(stack, "rpc-billing")),
        (killed, lambda stack: node_of(stack, "orders")),
        (frozen, lambda stack: node_of(stack, "billing")),
    ],
    ids=["the leader is killed", "that of orders is killed", "that of billing is frozen"],
)
def test_the_loss_of_a_node_loses_and_doubles_nothing_and_work_goes_on(
    stack: Stack, loss: Callable[..., Any], which: Callable[[Stack], Node]
):
    with Load(stack.url, clients=3, keyless=1, pause_s=PAUSE_S) as load:
        wait_for(lambda: load.counted["paid"] > SOME, UP_S, "the load to run")
        node = which(stack)
        [[lost_at]] = rows(stack, "orders", "select now()")
        with loss(stack, node):
            lost = time.monotonic()
            wait_for(lambda: paid(stack, lost_at), LOST_S[loss.__name__], "an order to be paid without the node")
            first_s = time.monotonic() - lost
            wait_for(lambda: paid(stack, lost_at) > SOME, WORK_S, "orders to be paid without the node")
        wait_for(lambda: all_up(stack), UP_S, "the node to be back")
    stopped = time.monotonic()
    wait_until_quiet(stack)
    letters_s = time.monotonic() - stopped
    print(f"{node.node} {loss.__name__}: the first new order paid after {first_s:.1f} s, {dict(load.counted)},")
    print(f"all letters {letters_s:.1f} s after the load, the slowest answer {load.slowest_s:.1f} s")
    assert load.failures == []
    assert violations(stack) == []
    assert broken_promises(stack, load.sent) == []


def test_without_most_of_the_nodes_answers_come_in_time_and_all_heals(stack: Stack):
    with Api(stack.url) as api:
        user_id = api.new_user(balance=1000)["id"]
        for node in nodes(stack)[1:]:
            os.kill(node.pid, signal.SIGKILL)
        wait_for(lambda: not any(node.running for node in nodes(stack)[1:]), 10, "the nodes to be dead")
        assert 202 in statuses(api, user_id, "two dead", OUTAGE_S)
        down = time.monotonic()
        wait_for(lambda: all_up(stack), 2 * UP_S, "the nodes to be back")
        print(f"two nodes killed: all up again {time.monotonic() - down:.1f} s after their start")
        check_that_it_heals(stack, api, user_id)


@pytest.mark.parametrize("type_, stays", [("quorum", True), ("classic", False)])
def test_a_classic_queue_is_away_while_its_node_is_and_a_quorum_queue_stays(stack: Stack, type_: Any, stays: bool):
    """Why QUEUE_TYPE is quorum with several nodes."""
    queue = Queue(f"test-{type_}", Exchange("test.loss", "direct"), type_, queue_arguments=arguments_of(type_))
    message = Message(b"a message", queue.exchange, type_)

    def taken(amqp_uri: str) -> bool:
        with suppress(Unavailable, *BROKER_DOWN):
            channel = Nodes(amqp_uri).connect(10, 0, ConfirmedChannel)
            try:
                return channel.publish([message], 5) == [True]
            finally:
                channel.connection.collect()
        return False

    last = nodes(stack)[-1]
    with Connection(last.uri) as connection:
        queue.bind(connection.channel()).declare()
    assert taken(stack.amqp_uri)
    with killed(stack, last):
        if stays:
            wait_for(lambda: taken(stack.amqp_uri), UP_S, "the quorum queue to have another leader")
        else:
            assert not taken(stack.amqp_uri)
    wait_for(lambda: all_up(stack), UP_S, "the node to be back")
    wait_for(lambda: taken(stack.amqp_uri), UP_S, "the queue to be back")
