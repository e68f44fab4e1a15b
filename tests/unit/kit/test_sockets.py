"""The AMQP library's transport over a pair of sockets: how often it calls the system."""

import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.transport import TCPTransport

from services.kit.amqp.sockets import spare_system_calls, written_together


class Counting:
    """A socket that counts what is asked of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sends = self.receives = 0

    def sendall(self, data: bytes) -> None:
        self.sends += 1
        self._sock.sendall(data)

    def recv(self, size: int) -> bytes:
        self.receives += 1
        return self._sock.recv(size)


@pytest.fixture
def connected() -> Iterator[tuple[Any, Counting, socket.socket]]:
    """kombu's connection, its socket, and the broker's end of it."""
    ours, brokers = socket.socketpair()
    with ours, brokers:
        connection = amqp.Connection()
        connection.client_properties = {"capabilities": {"connection.blocked": True}}
        connection._transport = transport = TCPTransport("broker")
        transport.sock = counting = Counting(ours)
        transport._setup_transport()
        yield SimpleNamespace(connection=connection), counting, brokers


def frame(payload: bytes) -> bytes:
    return struct.pack(f">BHI{len(payload)}sB", 1, 1, len(payload), payload, 0xCE)


def test_all_frames_that_have_come_are_read_at_once(connected):
    connection, sock, broker = connected
    spare_system_calls(connection)
    broker.sendall(frame(b"one") + frame(b"two") + frame(b"x" * 7000))
    transport = connection.connection.transport
    assert [bytes(transport.read_frame()[2]) for _ in range(3)] == [b"one", b"two", b"x" * 7000]
    assert sock.receives == 1
    broker.sendall(frame(b"y" * 20_000))  # longer than what is read at once
    assert bytes(transport.read_frame()[2]) == b"y" * 20_000


def test_nothing_is_looked_for_before_a_message_is_published(connected):
    connection, _, _ = connected
    spare_system_calls(connection)
    assert connection.connection.client_properties["capabilities"]["connection.blocked"] is False


def test_what_is_written_together_is_sent_at_once_and_in_order(connected):
    connection, sock, broker = connected
    buffer = bytearray(b"one")
    with written_together(connection):
        connection.connection.transport.write(memoryview(buffer))
        buffer[:] = b"two"  # the library writes each message from the same buffer
        connection.connection.transport.write(memoryview(buffer))
        assert sock.sends == 0
    assert (sock.sends, broker.recv(100)) == (1, b"onetwo")
    connection.connection.transport.write(b"three")
    assert (sock.sends, broker.recv(100)) == (2, b"three")


def test_nothing_is_sent_if_one_message_cannot_be_written(connected):
    connection, sock, _ = connected
    with pytest.raises(struct.error), written_together(connection):
        connection.connection.transport.write(b"one")
        raise struct.error
    assert sock.sends == 0
