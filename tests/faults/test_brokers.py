"""A broker of three nodes loses one, or two, or one freezes: nothing is lost or doubled, and work goes on.

`pytest -rP` shows how long that took.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from services.kit.amqp.message import Message
from services.kit.amqp.nodes import BROKER_DOWN, Nodes
from services.kit.amqp.publisher import ConfirmedChannel
from services.kit.amqp.queues import arguments_of
from services.kit.errors import Unavailable
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from tests.client import Api
from tests.conftest import QUICK
from tests.faults.answers import check_that_it_heals, statuses
from tests.faults.nodes import BROKERS, LOSSES, UP_S, all_up, killed, lose_a_node, nodes

pytestmark = pytest.mark.long
OUTAGE_S = 8
CONNECT_S = 10


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("three"), free_port(), QUICK, brokers=BROKERS) as running:
        yield running


@pytest.mark.parametrize("what", LOSSES)
def test_the_loss_of_a_node_loses_and_doubles_nothing_and_work_goes_on(stack: Stack, what: str):
    times, wrong = lose_a_node(stack, what)
    print(what, times)
    assert wrong == []


def test_without_most_of_the_nodes_answers_come_in_time_and_all_heals(stack: Stack):
    with Api(stack.url) as api:
        user_id = api.new_user(balance=1000)["id"]
        dead = nodes(stack)[1:]
        for node in dead:
            os.kill(node.pid, signal.SIGKILL)
        wait_for(lambda: not any(node.running for node in dead), 10, "the nodes to be dead")
        assert 202 in statuses(api, user_id, "two dead", OUTAGE_S)
        started = time.monotonic()
        wait_for(lambda: all_up(stack), 2 * UP_S, "the nodes to be back")
        print(f"two nodes killed: all up again {time.monotonic() - started:.1f} s after their start")
        check_that_it_heals(stack, api, user_id)


def test_a_classic_queue_is_away_while_its_node_is_and_a_quorum_queue_stays(stack: Stack):
    """Why QUEUE_TYPE is quorum with several nodes."""
    last = nodes(stack)[-1]
    with Connection(last.uri) as connection, connection.channel() as channel:
        for type_ in ("quorum", "classic"):
            queue(type_).bind(channel).declare()
    assert taken(stack, "quorum") and taken(stack, "classic")
    with killed(last):
        wait_for(lambda: taken(stack, "quorum"), UP_S, "the quorum queue to have another leader")
        assert not taken(stack, "classic")
    wait_for(lambda: all_up(stack), UP_S, "the node to be back")
    wait_for(lambda: taken(stack, "classic"), UP_S, "the classic queue to be back")


def queue(type_: Any) -> Queue:
    return Queue(f"test-{type_}", Exchange("test.loss", "direct"), type_, queue_arguments=arguments_of(type_))


def taken(stack: Stack, type_: Any) -> bool:
    """Return whether the broker takes a message for the queue of this type."""
    with suppress(Unavailable, *BROKER_DOWN):
        channel = Nodes(stack.amqp_uri).connect(CONNECT_S, 0, ConfirmedChannel)
        try:
            return channel.publish([Message(b"a message", queue(type_).exchange, type_)], CONNECT_S) == [True]
        finally:
            channel.connection.collect()
    return False
