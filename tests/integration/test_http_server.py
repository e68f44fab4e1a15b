"""The HTTP server of a service, over sockets: deadlines of slow clients, and the limit of connections."""

import json
import re
import time
from collections.abc import Iterator

import eventlet
import pytest
from eventlet.green import socket

from services.kit.web.server import Server
from services.local.net import wait_for
from tests.running import GET, REQUEST_S, SLACK_S, Running, everything


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    running.start()
    yield running
    running.drain()
    running.stop()


def trickle(connection: socket.socket, data: bytes) -> None:
    """Send a byte now and then, until the connection is closed."""
    try:
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            eventlet.sleep(REQUEST_S / 4)
    except OSError:
        pass


@pytest.mark.parametrize("begin", [b"", GET[:-2]])
def test_a_head_that_trickles_in_is_given_up(server: Running, begin: bytes):
    started = time.monotonic()
    with server.connect() as connection:
        connection.sendall(begin)
        sending = eventlet.spawn(trickle, connection, b"x" * 1000)
        answer = everything(connection)
        sending.kill()
    assert REQUEST_S - 0.1 < time.monotonic() - started < REQUEST_S + SLACK_S
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["type"] == "urn:nameko-hw:problem:request-timeout"


@pytest.mark.parametrize(
    "head, status, name",
    [
        (b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head-too-long"),
        (GET[:-2] + b"Authorization: " + b"x" * 100_000 + b"\r\n\r\n", 431, "head-too-long"),
        (GET[:-2] + b"X: x\r\n" * 20_000 + b"\r\n", 431, "head-too-long"),
        (b"GET /health/live\r\n\r\n", 400, "malformed-request"),
        (b"GET /health/live HTTP/1.1\nHost: x\n\n\r\n\r\n", 400, "malformed-request"),
        (GET[:-2] + b"no colon\r\n\r\n", 400, "malformed-request"),
        (GET[:-2] + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed-request"),
        (GET[:-2] + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed-request"),
    ],
    ids=lambda one: one[:40] if isinstance(one, bytes) else None,
)
def test_a_head_that_is_too_long_or_malformed_is_answered_and_ends_the_connection(server, head, status, name):
    with server.connect() as connection:
        connection.sendall(head)
        answer, _, body = everything(connection).partition(b"\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["type"] == f"urn:nameko-hw:problem:{name}"


def test_requests_that_come_together_are_answered_in_turn(server: Running):
    with server.connect() as connection:
        connection.sendall(
            GET + GET.replace(b"live", b"nobody") + GET.replace(b"1.1\r\n", b"1.1\r\nConnection: close\r\n")
        )
        answers = everything(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"404", b"200"]


def test_a_client_of_http_1_0_is_answered_and_left(server: Running):
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert b" 200 OK\r\n" in everything(connection)


def test_a_body_that_nobody_reads_and_that_trickles_in_is_given_up(server: Running):
    started = time.monotonic()
    with server.connect() as connection:
        connection.sendall(GET[:-2] + b"Content-Length: 1000\r\n\r\n")
        sending = eventlet.spawn(trickle, connection, b"x" * 1000)
        assert everything(connection).startswith(b"HTTP/1.1 200 ")
        sending.kill()
    assert time.monotonic() - started < REQUEST_S + SLACK_S


def test_an_idle_connection_is_kept_and_each_request_has_its_own_time(server: Running):
    with server.connect() as connection:
        for _ in range(3):
            eventlet.sleep(REQUEST_S * 0.55)
            connection.sendall(GET[:9])
            eventlet.sleep(REQUEST_S * 0.55)
            connection.sendall(GET[9:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        eventlet.sleep(REQUEST_S * 2)
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_its_answer_is_left(server: Running):
    server._serv.app = lambda environ, start: start("200 OK", []) and [b"x" * 2**25]
    with server.connect() as connection:
        connection.sendall(GET)
        wait_for(lambda: eventlet.sleep(0.05) or server._connections == 1, SLACK_S, "the connection")
        wait_for(lambda: eventlet.sleep(0.05) or server._connections == 0, REQUEST_S + SLACK_S, "its end")


def test_the_deadline_of_the_head_does_not_cut_the_answer(server: Running):
    server.app = lambda environ, start: eventlet.sleep(REQUEST_S * 2) or Server.app(server, environ, start)
    server._serv.app = server.app
    with server.connect() as connection:
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_beyond_the_limit_is_answered_503(server: Running):
    open_ = [server.connect() for _ in range(10)]
    for connection in open_:
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    with server.connect() as connection:
        connection.sendall(GET)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in head and b"Connection: close" in head
    assert "Idempotency-Key" in json.loads(body)["detail"]
    open_.pop().close()
    eventlet.sleep(0.05)
    with server.connect() as connection:
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    for connection in open_:
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_service_that_is_about_to_stop_is_not_ready(server: Running):
    assert server.health.ready().status_code == 200
    server.drain()
    answer = server.health.ready()
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1


def test_many_connections_too_many_are_closed_and_forgotten(server: Running):
    kept = [server.connect() for _ in range(10)]
    eventlet.sleep(0.05)
    flood = [server.connect() for _ in range(200)]
    answers = []
    for connection in flood:
        try:
            answers.append(everything(connection)[:13])
        except ConnectionResetError:
            answers.append(b"")
        connection.close()
    assert set(answers) <= {b"HTTP/1.1 503 ", b""}
    for connection in kept:
        connection.close()
    eventlet.sleep(0.5)
    assert (server._connections, server._refused) == (0, 0)


@pytest.mark.parametrize(
    "head, chunk",
    [
        (b"Content-Length: 1000000\r\n", b"x" * 10_000),
        (b"Transfer-Encoding: chunked\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n"),
    ],
)
def test_who_is_sending_a_body_that_is_refused_gets_the_answer(server: Running, head: bytes, chunk: bytes):
    """As behind a proxy that sends all of it before it reads: a connection that is reset has lost the answer."""
    started = time.monotonic()
    with server.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n" + chunk)
        for _ in range(50):
            connection.sendall(chunk)
            eventlet.sleep(0.001)  # lets the server answer, and close
        assert everything(connection).startswith(b"HTTP/1.1 404 ")
    assert time.monotonic() - started < REQUEST_S + SLACK_S


def test_who_does_not_go_on_with_a_body_that_is_refused_is_left_in_time(server: Running):
    started = time.monotonic()
    with server.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 404 ")
        eventlet.sleep(0)
        wait_for(lambda: closed(connection), REQUEST_S + SLACK_S, "the connection to be closed")
    assert time.monotonic() - started < REQUEST_S + SLACK_S


def closed(connection: socket.socket) -> bool:
    """Whether the other end is closed for writing too: what is sent there is refused."""
    eventlet.sleep(0.01)
    try:
        connection.sendall(b"x")
    except OSError:
        return True
    return False
