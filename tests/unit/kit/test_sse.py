"""Streams over sockets: a client that does not read, the limit, and the end of the service."""

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import eventlet
import pytest
from eventlet import wsgi
from eventlet.green import socket
from werkzeug.wrappers import Request

from services.kit.web import sse
from services.kit.web.problems import Problem
from services.kit.web.protocol import protocol_of
from services.kit.web.sse import HEARTBEAT, Streams
from tests.unit.kit.table import wait_for

LONG_S, SHORT_S = 5, 0.1
GET = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"

Connect = Callable[..., Any]


def idle() -> Iterator[bytes]:
    while True:
        eventlet.sleep(LONG_S)
        yield HEARTBEAT


def endless() -> Iterator[bytes]:
    while True:
        yield b": %s\n\n" % (b"x" * 100_000)
        eventlet.sleep(0)


@pytest.fixture
def streams() -> Streams:
    return Streams(most=3)


@pytest.fixture
def connect(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Open a stream of blocks; return the connection, of which the head has been read."""
    monkeypatch.setattr(sse, "SEND_S", SHORT_S)
    listener = eventlet.listen(("127.0.0.1", 0))
    served: list[Iterable[bytes]] = []
    connections: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            answer = streams.answer(Request(environ), served.pop())
        except Problem as problem:
            answer = problem.response("unit")
        return answer(environ, start_response)

    def opened(blocks: Iterable[bytes], request: bytes = GET) -> Any:
        served.append(blocks)
        connection = socket.create_connection(listener.getsockname(), timeout=LONG_S)
        connections.append(connection)
        connection.sendall(request)
        return connection

    options = {"protocol": protocol_of("unit"), "log_output": False, "debug": False, "socket_timeout": LONG_S}
    server = eventlet.spawn(wsgi.server, listener, app, **options)
    yield opened
    server.kill()
    for connection in connections:
        connection.close()


def received(connection: Any, until: bytes = b"") -> bytes:
    """Return what comes until it ends with `until`, or until the other side closes the connection."""
    data = b""
    while (block := connection.recv(65_536)) and not (until and data.endswith(until)):
        data += block
        if until and data.endswith(until):
            break
    return data


def test_a_client_that_does_not_read_harms_only_itself(connect: Connect, streams: Streams):
    stuck, other = connect(endless()), connect(endless())
    reading = eventlet.spawn(received, other)
    wait_for(lambda: len(streams) == 2, LONG_S, "two streams")
    wait_for(lambda: len(streams) == 1, LONG_S, "the end of the one")
    eventlet.sleep(3 * SHORT_S)
    assert len(streams) == 1 and not reading.dead
    assert received(stuck), "what was on its way"
    reading.kill()


def test_all_streams_end_at_once_when_the_service_stops(
    connect: Connect, streams: Streams, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sse, "SEND_S", LONG_S)
    waiting = connect(idle())
    connect(endless())  # is not read
    head = received(waiting, b"\n\n\r\n")
    assert b"Content-Type: text/event-stream" in head and b"X-Accel-Buffering: no" in head and b"retry: " in head
    wait_for(lambda: len(streams) == 2, LONG_S, "two streams")
    streams.end()
    wait_for(lambda: len(streams) == 0, 1.0, "the end of both")
    assert received(waiting, b"0\r\n\r\n").endswith(b"0\r\n\r\n"), "a proper end"
    assert received(connect(idle()), b"}").startswith(b"HTTP/1.1 503")


def test_there_are_only_so_many_and_one_that_has_ended_makes_room(connect: Connect, streams: Streams):
    open_ones = [connect(idle()) for _ in range(3)]
    wait_for(lambda: len(streams) == 3, LONG_S, "three streams")
    refused = received(connect(idle()), b"}")
    assert refused.startswith(b"HTTP/1.1 503") and b"Retry-After: " in refused and b"3 streams" in refused
    open_ones[0].close()
    streams.most = 4
    with closing(connect(endless())) as another:
        received(another, b"\r\n")
    wait_for(lambda: len(streams) == 2, LONG_S, "the end of both")


def test_who_closes_the_connection_makes_room_at_once_and_who_says_more_stays(connect: Connect, streams: Streams):
    gone, reset, talking = (connect(idle()) for _ in range(3))
    wait_for(lambda: len(streams) == 3, LONG_S, "three streams")
    talking.sendall(GET)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for connection in (gone, reset):
        connection.close()
    wait_for(lambda: len(streams) == 1, LONG_S / 2, "the end of both, before the first heartbeat")
    eventlet.sleep(SHORT_S)
    assert len(streams) == 1


def test_a_stream_that_fails_ends_and_the_log_says_why(connect: Connect, caplog: pytest.LogCaptureFixture):
    def failing() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        raise ValueError("a defect")

    with caplog.at_level(logging.ERROR):
        assert received(connect(failing()), b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    assert "a defect" in caplog.text


def test_an_old_client_gets_a_stream_too(connect: Connect):
    def two() -> Iterator[bytes]:
        yield sse.place("1.2.3")
        yield sse.event("1.2.4", "paid", "{}")

    got = received(connect(two(), GET.replace(b"1.1", b"1.0")))
    assert b"chunked" not in got
    assert got.endswith(b"id: 1.2.3\n\nid: 1.2.4\nevent: paid\ndata: {}\n\n")
