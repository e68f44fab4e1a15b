"""A server that does to its client what a test says."""

import json
import socket as native
import struct
from collections.abc import Callable
from typing import Any

import eventlet

from services.local.net import free_port

SILENCE_S = 5
Behaviour = Callable[[Any], None]


class Peer:
    """A server that treats each request as `behaviours` say, one after the other; the last one is for all that follow.

    A behaviour gets the connection. The next request on the connection is awaited when it returns.
    """

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        self.behaviours = list(behaviours)
        self.port = port or free_port()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: list[Any] = []
        self.under_way = self.most_under_way = 0
        self._listener = eventlet.listen(("127.0.0.1", self.port), reuse_port=False)
        self._threads = [eventlet.spawn(self._accept)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        for thread in self._threads:
            thread.kill()
        self._listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self.connections.append(connection)
            self._threads.append(eventlet.spawn(self._serve, connection))

    def _serve(self, connection: Any) -> None:
        try:
            with connection.makefile("rb") as received:
                while line := received.readline():
                    headers = dict(one.decode().rstrip().split(": ", 1) for one in iter(received.readline, b"\r\n"))
                    body = received.read(int(headers.get("Content-Length", 0)))
                    self.requests.append((line.decode().strip(), headers, body))
                    self.under_way += 1
                    self.most_under_way = max(self.most_under_way, self.under_way)
                    behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                    try:
                        behaviour(connection)
                    finally:
                        self.under_way -= 1
        except OSError:
            pass  # the client is gone


def answer(body: Any, status: str = "200 OK", headers: str = "", after_s: float = 0) -> Behaviour:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(connection: Any) -> None:
        eventlet.sleep(after_s)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data)

    return send


def silent(connection: Any) -> None:
    eventlet.sleep(SILENCE_S)


def reset(connection: Any) -> None:
    """Have the client get ECONNRESET."""
    connection.setsockopt(native.SOL_SOCKET, native.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    raise OSError


def cut(data: bytes) -> Behaviour:
    """Send a part of an answer, and close the connection."""

    def send(connection: Any) -> None:
        connection.sendall(data)
        connection.shutdown(native.SHUT_RDWR)
        raise OSError

    return send


def trickle(connection: Any) -> None:
    """Send an answer that never ends, and never pauses for long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" ")
        eventlet.sleep(0.04)
