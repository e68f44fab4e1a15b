"""The loss of nodes of a broker of three, under load: `python -m tests.faults.nodes --rounds 10`.

Clients keep the system busy while a node is killed or frozen. Nothing may be lost or doubled, and no answer may be a
500. The times until work goes on are printed as a table.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from services.local.cluster import Node
from services.local.needs import rabbitmq_server
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from tests.books import broken_promises, rows, violations, wait_until_quiet
from tests.conftest import QUICK
from tests.faults.test_draining import suspended
from tests.load import Load

BROKERS = 3
UP_S = 60
PAUSE_S = 0.1  # of each client
SOME = 10  # orders


class Times(NamedTuple):
    """Seconds from the loss of a node to the first new order that is paid, and from the end of the load to rest."""

    first_s: float
    rest_s: float
    slowest_answer_s: float


def nodes(stack: Stack) -> list[Node]:
    assert stack.cluster
    return stack.cluster.nodes


def node_of(stack: Stack, service: str) -> Node:
    """Return the node to which a service has most of its connections."""
    ports = [one.raddr.port for one in psutil.Process(stack.supervisor.pid(service)).net_connections() if one.raddr]
    return max(nodes(stack), key=lambda node: ports.count(node.port))


def leader_of(stack: Stack, queue: str) -> Node:
    """Return the node that leads a queue."""
    node, server = nodes(stack)[0], rabbitmq_server()
    assert server
    asked = [str(server.with_name("rabbitmqctl")), "-q", "-n", node.node, "list_queues", "name", "leader"]
    listed = subprocess.run(asked, env=node._environment(), capture_output=True, text=True, check=True).stdout
    leaders = dict(line.split("\t") for line in listed.splitlines() if "\t" in line)
    [leader] = [one for one in nodes(stack) if one.node == leaders[queue]]
    return leader


def all_up(stack: Stack) -> bool:
    stack.keep_servers_running()
    return all(node.is_up for node in nodes(stack)) and stack.is_ready()


@contextmanager
def killed(node: Node) -> Iterator[None]:
    """The node does not run meanwhile, and has had no time to say goodbye."""
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: not node.running, 10, "the node to be dead")
    yield


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """The node does not run meanwhile; then it does, and is restarted, as docs/operations.md says."""
    with suspended(node.pid):
        yield
    with killed(node):
        pass


#: What is done to a node, which one, and how long the first order after it may take to be paid.
LOSSES: dict[str, tuple[Callable[[Node], AbstractContextManager[None]], Callable[[Stack], Node], float]] = {
    "the leader of rpc-billing is killed": (killed, lambda stack: leader_of(stack, "rpc-billing"), 15),
    "the node of orders is killed": (killed, lambda stack: node_of(stack, "orders"), 15),
    "the node of billing is frozen": (frozen, lambda stack: node_of(stack, "billing"), 45),
}


def paid(stack: Stack, since: Any) -> int:
    """Return how many of the orders that were created since then are paid."""
    query = "select count(*) from orders where status = 'paid' and created_at > :since"
    [[count]] = rows(stack, "orders", query, since=since)
    return int(count)


def lose_a_node(stack: Stack, what: str, seed: int = 0) -> tuple[Times, list[str]]:
    """Lose a node under load, and have it back; return how long that took, and all that was wrong."""
    lose, which, patience_s = LOSSES[what]
    with Load(stack.url, clients=3, seed=seed, keyless=1, pause_s=PAUSE_S) as load:
        wait_for(lambda: load.counted["paid"] > SOME, UP_S, "the load to run")
        node = which(stack)
        [[lost_at]] = rows(stack, "orders", "select now()")
        with lose(node):
            lost = time.monotonic()
            wait_for(lambda: paid(stack, lost_at), patience_s, "an order to be paid without the node")
            first_s = time.monotonic() - lost
            wait_for(lambda: paid(stack, lost_at) > SOME, UP_S, "orders to be paid without the node")
        wait_for(lambda: all_up(stack), UP_S, "the node to be back")
    stopped = time.monotonic()
    wait_until_quiet(stack)
    times = Times(first_s, time.monotonic() - stopped, load.slowest_s)
    return times, load.failures + violations(stack) + broken_promises(stack, load.sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder), free_port(), QUICK, brokers=BROKERS, say=lambda _: None) as stack,
    ):
        print(f"{'seconds until':<40}{'the first order':>16}{'rest':>8}{'slowest answer':>16}", flush=True)
        for number in range(arguments.rounds):
            for what in LOSSES:
                times, found = lose_a_node(stack, what, number)
                print(
                    f"{what:<40}{times.first_s:>16.1f}{times.rest_s:>8.1f}{times.slowest_answer_s:>16.1f}", flush=True
                )
                print("".join(f"WRONG  {one}\n" for one in found), end="", flush=True)
                wrong += found
    print("nothing lost, nothing doubled" if not wrong else f"{len(wrong)} are wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
