"""Clients that take their time: 500 of them at once are cut, each within its deadline, and hold up nobody."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import quantiles

import eventlet
import pytest
from eventlet import Timeout
from eventlet.green import socket
from pydantic import BaseModel

from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Http, Reply, Route
from services.kit.web.protocol import LINGER_S
from tests.running import GET, SLACK_S, Running, everything

OF_EACH_KIND = 84
REQUEST_S = 2.5  # which all have begun before
AT_MOST_S = REQUEST_S + LINGER_S + 3 * SLACK_S
BUFFER = 16_384  # bytes that the kernel may keep of an answer for a client that does not read
POST = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
READ = b"GET /things HTTP/1.1\r\nHost: x\r\n\r\n"


class Thing(BaseModel):
    name: str


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running(MAX_CONNECTIONS=600, REQUEST_TIMEOUT_S=REQUEST_S)
    thing = Thing(name="x" * 60 * BUFFER)
    running.serve(Http(Route("POST", "/things", Rule.OPEN, {}, body=Thing)), lambda key, body: Reply(201, body))
    running.serve(Http(Route("GET", "/things", Rule.OPEN, {})), lambda: Reply(200, thing))
    running.start()
    running._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    yield running
    running.drain()


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """Send a beginning, then a byte now and then. Return the answer, when the server has closed the connection."""
    connection.sendall(data)
    sending = eventlet.spawn(drip, connection)
    try:
        return everything(connection)
    except ConnectionResetError:
        return b""
    finally:
        sending.kill()


def drip(connection: socket.socket) -> None:
    while True:
        eventlet.sleep(REQUEST_S / 5)
        connection.sendall(b"x")


def sip(connection: socket.socket, size: int) -> bytes:
    """Ask for much, and for ever read a little of it now and then, or nothing."""
    connection.sendall(READ)
    while True:
        eventlet.sleep(REQUEST_S / 5)
        connection.recv(size)


#: What a slow client does, and how the answer begins that it gets.
KINDS: dict[str, tuple[Callable[[socket.socket], bytes], bytes]] = {
    "says nothing": (everything, b""),
    "in the head": (lambda one: trickle(one, GET[:-2] + b"X: "), b"HTTP/1.1 408 "),
    "in the body": (lambda one: trickle(one, POST + b"Content-Length: 1000\r\n\r\n"), b"HTTP/1.1 408 "),
    "in a body that nobody reads": (
        lambda one: trickle(one, GET[:-2] + b"Content-Length: 9\r\n\r\n"),
        b"HTTP/1.1 200 ",
    ),
    "reads slowly": (lambda one: sip(one, 2 * BUFFER), b""),
    "does not read": (lambda one: sip(one, 0), b""),
}
READERS = ("reads slowly", "does not read")


def test_500_slow_clients_are_cut_in_time_while_others_go_on(server: Running, caplog: pytest.LogCaptureFixture):
    answered: Counter[str] = Counter()

    def be_slow(kind: str) -> None:
        does, begins = KINDS[kind]
        with socket.socket() as connection:
            connection.settimeout(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            connection.connect(("127.0.0.1", server.port))
            is_answered = does(connection).startswith(begins)
            answered[kind] += is_answered

    slow = [(kind, eventlet.spawn(be_slow, kind)) for kind in KINDS for _ in range(OF_EACH_KIND)]
    took: list[float] = []
    with Timeout(AT_MOST_S, TimeoutError("slow clients are not cut")), server.connect() as connection:
        while server._connections <= len(slow):
            eventlet.sleep(0.01)
        while server._connections > 1:
            started = time.monotonic()
            connection.sendall(GET)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            took.append(time.monotonic() - started)
            eventlet.sleep(0.01)
    for kind, one in slow:
        if kind in READERS:
            one.kill()
        else:
            one.wait()
    assert answered == {kind: OF_EACH_KIND for kind, (does, _) in KINDS.items() if kind not in READERS}
    assert caplog.records == []
    assert quantiles(took, n=10)[-1] < 0.1, "nine of ten are answered at once"
