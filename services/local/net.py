"""Loopback ports, and waiting with a deadline."""

import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

HOST = "127.0.0.1"
POLL_S = 0.05
PROBE_S = 0.2

# Below the ports that Linux and macOS use for outgoing connections. While a server is down, a client that
# keeps calling a port of their range may in the end connect to itself, and then the port is taken. FREE_PORTS
# (first, end, step) is set by tests for the programs that they start, so that no two draw the same port.
PORTS = range(*map(int, os.environ.get("FREE_PORTS", "20000 32000 1").split()))

T = TypeVar("T")
_random = random.SystemRandom()  # seeded tests in parallel would otherwise draw the same ports
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now; a process never gets the same port twice."""
    for port in _random.sample(PORTS, 100):
        if port not in _given and port_is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port on {HOST} among 100 from {PORTS.start} to {PORTS.stop - 1}")


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def accepts(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    try:
        with socket.create_connection((HOST, port), PROBE_S):
            return True
    except OSError:
        return False


def wait_for(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Call `condition` until its answer is true, and return that answer.

    Raises TimeoutError, which names `what`, after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(POLL_S)
    return answer
