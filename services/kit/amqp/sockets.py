"""Fewer system calls than the AMQP library makes: it reads each frame by three, looks for news before each message that
it publishes, and writes each message by itself.

It has no settings for that. What is changed here are functions of its transport, which it keeps as attributes; the
version of the library is pinned. The broker of embedded mode has no sockets, and is left as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.connection import Connection

READ_BYTES = 8_192


def spare_system_calls(connection: Any) -> None:
    """Have whatever has come on a connection be read at once, and messages be published without looking for more.

    What is looked for is that the broker blocks its publishers: nothing is done about that but to wait for confirms.
    """
    if isinstance(connection.connection, Connection):
        transport = connection.connection.transport
        receive = transport._quick_recv
        transport._quick_recv = lambda size: receive(max(size, READ_BYTES))
        connection.connection.client_properties["capabilities"]["connection.blocked"] = False


@contextmanager
def written_together(connection: Any) -> Iterator[None]:
    """Send what is written inside by one system call, at the end; nothing of it if an error leaves."""
    if not isinstance(connection.connection, Connection):
        yield
        return
    transport = connection.connection.transport
    written: list[bytes] = []
    write, transport._write = transport._write, lambda frame: written.append(bytes(frame))
    try:
        yield
    finally:
        transport._write = write
    transport.write(memoryview(b"".join(written)))  # TLS sends parts of it, which are not copied
