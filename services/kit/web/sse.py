"""Server-sent events (HTML Living Standard, section 9.2): answers that go on until one of the two sides ends them.

A stream holds a connection and a green thread, and neither a worker nor a connection to the database.
"""

import logging
import random
from collections.abc import Iterable, Iterator
from typing import Any

import eventlet
from eventlet import Timeout, getcurrent
from eventlet.green import socket
from eventlet.hubs import get_hub, trampoline
from werkzeug.wrappers import Request, Response

from services.kit.web.problems import NO_STORE, unavailable

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
HEADERS = {**NO_STORE, "Vary": "Accept", "X-Accel-Buffering": "no"}  # the last is for nginx and its ingress
HEARTBEAT_S = 5.0  # how soon we notice that a client is gone without a word, and it that we are
HEARTBEAT = b": still here\n\n"
SEND_S = 10.0  # how long a client may take for what we send at a time
RETRY_MS = (1000, 4000)  # when a client comes back whose stream has ended: not all at once


def event(id_: object, name: str, data: str) -> bytes:
    """Return one event; without an id it does not change what the client has got last. `data` is one line."""
    head = "" if id_ is None else f"id: {id_}\n"
    return f"{head}event: {name}\ndata: {data}\n\n".encode()


def place(id_: object) -> bytes:
    """Return what makes `id_` the last that the client has got, without an event."""
    return f"id: {id_}\n\n".encode()


def wants_stream(request: Request) -> bool:
    """Return whether the client asks for a stream rather than for JSON; whoever takes anything gets JSON."""
    return request.accept_mimetypes.best_match(["application/json", CONTENT_TYPE]) == CONTENT_TYPE


def unbuffered(request: Request, blocks: Iterable[bytes]) -> Iterable[bytes]:
    """Have each block sent as it comes, and end the stream of a client that is gone, or takes longer than SEND_S."""
    # else eventlet holds back what is shorter than 4 KiB
    request.environ["eventlet.minimum_write_chunk_size"] = 0
    return _while_taken(request, blocks)


def _while_taken(request: Request, blocks: Iterable[bytes]) -> Iterator[bytes]:
    watcher = eventlet.spawn(_end_with, request.environ["eventlet.input"].get_socket(), getcurrent())
    try:
        for block in blocks:
            with Timeout(SEND_S, TooSlow("a client does not read what it is sent")):  # raised where eventlet sends
                yield block
    except Ended:
        return
    finally:
        watcher.kill()


def _end_with(connection: Any, sender: Any) -> None:
    """End what `sender` sends as soon as the client closes the connection, so that its place is free for others."""
    trampoline(connection, read=True)
    try:
        is_open = bool(connection.recv(1, socket.MSG_PEEK))  # a client that sends more is left alone
    except OSError:
        is_open = False
    if not is_open:
        eventlet.kill(sender, Ended())


class Streams:
    """The open streams of a process, up to `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: set[Any] = set()  # the green threads that send them
        self._is_stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def answer(self, request: Request, blocks: Iterable[bytes]) -> Response:
        """Answer with a stream of `blocks`. Raises a Problem if there are too many."""
        if self._is_stopping:
            raise unavailable("The service is stopping.")
        if len(self._open) >= self.most:
            raise unavailable(f"{self.most} streams are open already.")
        sent = iter(()) if request.method == "HEAD" else unbuffered(request, self._sent(blocks))
        return Response(sent, headers=HEADERS, content_type=CONTENT_TYPE)

    def end(self) -> None:
        """End all streams, and open none any more. Clients come back by themselves, to whoever is there then."""
        self._is_stopping = True
        for sender in self._open:
            get_hub().schedule_call_global(0, self._end, sender)

    def _end(self, sender: Any) -> None:
        if sender in self._open:
            sender.throw(Ended())

    def _sent(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        sender = getcurrent()
        self._open.add(sender)
        try:
            yield f"retry: {random.randint(*RETRY_MS)}\n\n".encode()
            yield from blocks
        except Ended:
            return
        except Exception:
            log.exception("a stream failed")
        finally:
            self._open.discard(sender)


class Ended(Exception):
    """The service stops, or the client is gone."""


class TooSlow(Exception):
    """A client has not read in time what it was sent."""
