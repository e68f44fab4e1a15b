"""The proxy of the fault tests does to connections what it is told."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest
from kombu import Connection, Queue

from services.kit.amqp.message import Message
from services.kit.amqp.publisher import BROKER_DOWN, ConfirmedChannel
from services.local.net import HOST, free_port, wait_for
from services.local.stack import Stack
from tests.broker import channel
from tests.faults.proxy import AMQP, POSTGRES, Fault, Mode, Proxy

heard: list[bytes] = []


class Shouter(socketserver.BaseRequestHandler):
    """Answers in capitals, and remembers what it heard."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(1000):
                heard.append(data)
                self.request.sendall(data.upper())
        except ConnectionResetError:
            heard.append(b"reset")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that shouts."""
    heard.clear()
    with socketserver.ThreadingTCPServer((HOST, free_port()), Shouter) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with Proxy(server.server_address[1]) as one:
                yield one
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def connected(proxy: Proxy, timeout_s: float = 5) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=timeout_s) as client:
        yield client


def ask(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    return client.recv(1000)


def test_it_passes_on_what_it_gets_in_both_directions(proxy: Proxy):
    with connected(proxy) as one, connected(proxy) as other:
        assert ask(one, b"one") == b"ONE"
        assert ask(other, b"other") == b"OTHER"
        assert ask(one, b"again") == b"AGAIN"


@pytest.mark.parametrize(
    "fault, server_hears, client_hears",
    [
        (Fault.CUT_BEFORE, [b"reset"], b""),
        (Fault.CUT_REQUEST, [b"sec", b"reset"], b""),
        (Fault.LOSE_REPLY, [b"secret", b"reset"], b""),
        (Fault.CUT_REPLY, [b"secret", b"reset"], b"SEC"),
    ],
)
def test_a_rule_cuts_the_connection_of_the_request_that_it_matches(
    proxy: Proxy, fault: Fault, server_hears: list, client_hears: bytes
):
    rule = proxy.add(fault, b"secret")
    with connected(proxy) as one, connected(proxy) as other:
        assert ask(one, b"hello") == b"HELLO"
        answer = b""
        with pytest.raises(ConnectionResetError):
            one.sendall(b"secret")
            while data := one.recv(1000):
                answer += data
        assert answer == client_hears
        wait_for(lambda: heard[1:] == server_hears, 5, f"the server to hear {server_hears}, it heard {heard}")
        assert ask(other, b"secret") == b"SECRET"  # the rule was for one
    assert rule.done == proxy.done[fault] == 1


def test_a_rule_is_done_as_often_as_it_says_and_as_likely(proxy: Proxy):
    proxy.add(Fault.DELAY, b"never", count=None, probability=0)
    sometimes = proxy.add(Fault.DELAY, b"x", count=None, probability=0.5)
    with connected(proxy) as one:
        for _ in range(100):
            assert ask(one, b"never x") == b"NEVER X"
    assert 20 < sometimes.done < 80


def test_a_request_can_be_delayed(proxy: Proxy):
    proxy.add(Fault.DELAY, b"slow", delay_s=0.3)
    with connected(proxy) as one:
        started = time.monotonic()
        assert ask(one, b"slow") == b"SLOW"
        assert time.monotonic() - started >= 0.3


def test_what_is_held_comes_when_it_is_let_go(proxy: Proxy):
    with connected(proxy) as one:
        assert ask(one, b"one") == b"ONE"
        proxy.mode = Mode.HOLD
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(one, b"two")
        assert heard == [b"one"]
        proxy.mode = Mode.PASS
        one.settimeout(5)
        assert one.recv(1000) == b"TWO"


def test_a_black_hole_accepts_and_says_nothing(proxy: Proxy):
    proxy.mode = Mode.BLACK_HOLE
    with connected(proxy, timeout_s=0.2) as one, pytest.raises(TimeoutError):
        ask(one, b"one")
    assert heard == []


def test_it_refuses_connections_and_keeps_those_that_are_there(proxy: Proxy):
    with connected(proxy) as one:
        assert ask(one, b"one") == b"ONE"
        proxy.mode = Mode.REFUSE
        with pytest.raises(ConnectionRefusedError), connected(proxy):
            pass
        assert ask(one, b"two") == b"TWO"
        proxy.mode = Mode.PASS
        with connected(proxy) as another:
            assert ask(another, b"three") == b"THREE"


def test_all_connections_can_be_cut_at_once(proxy: Proxy):
    with connected(proxy) as one, connected(proxy) as other:
        assert ask(one, b"one") + ask(other, b"two") == b"ONETWO"
        assert proxy.cut() == 2
        for client in (one, other):
            with pytest.raises(ConnectionResetError):
                client.recv(1000)
        with connected(proxy) as another:
            assert ask(another, b"three") == b"THREE"


def test_a_server_that_is_away_is_a_connection_that_is_reset():
    with Proxy(free_port()) as proxy, pytest.raises(ConnectionResetError), connected(proxy) as one:
        one.recv(1000)


def test_a_commit_whose_reply_is_lost_has_taken_effect(stack: Stack):
    assert stack.postgres
    with (
        Proxy(stack.postgres.port, POSTGRES) as proxy,
        closing(psycopg2.connect(host=HOST, port=proxy.port, user="postgres", dbname="postgres")) as connection,
    ):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("create table lost (name text)")
            lost = proxy.add(Fault.LOSE_REPLY, b"into lost")
            with pytest.raises(psycopg2.OperationalError):
                cursor.execute("insert into lost values (repeat('x', 200000)) returning name")
        assert lost.done == 1
        with (
            closing(psycopg2.connect(host=HOST, port=proxy.port, user="postgres", dbname="postgres")) as other,
            other,
            other.cursor() as cursor,
        ):
            cursor.execute("select count(*) from lost")
            assert cursor.fetchall() == [(1,)]
            cursor.execute("drop table lost")


def test_a_publish_whose_confirm_is_lost_has_taken_effect(stack: Stack):
    assert stack.rabbitmq
    with Proxy(stack.rabbitmq.port, AMQP) as proxy, channel(stack) as direct:
        publisher = ConfirmedChannel(Connection(f"amqp://guest:guest@{HOST}:{proxy.port}/"))
        assert publisher.publish([Message(b"once", Queue("lost"))], timeout_s=5) == [True]
        lost = proxy.add(Fault.LOSE_REPLY, b"twice")
        with pytest.raises(BROKER_DOWN):
            publisher.publish([Message(b"twice", Queue("lost"))], timeout_s=5)
        assert lost.done == 1
        publisher.connection.collect()
        assert [direct.basic_get("lost", no_ack=True).body for _ in range(2)] == [b"once", b"twice"]
        direct.queue_delete("lost")
