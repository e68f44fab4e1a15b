"""The spans as server-sent events (HTML Living Standard, section 9.2): one event for those that came together.

The id of an event is the position of its last span in the ring. A browser that has lost its connection sends the id
of the last event that it got as Last-Event-ID, and so gets every span once that is still in the ring. An event `lost`
says that some are not.
"""

import json
from collections.abc import Iterator
from typing import Any

from eventlet import Timeout
from werkzeug.wrappers import Request, Response

from services.kit.web.problems import unavailable
from services.local.page.spans import Position, Ring

AT_ONCE = 500  # spans in an event
HEARTBEAT_S = 5.0  # how soon we notice that a browser is gone, and it that we are
RETRY_MS = 1000
MOST = 20  # browsers


class Stream:
    """Sends what comes into a ring to any number of browsers, up to MOST."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.open = 0

    def answer(self, request: Request) -> Response:
        """Answer with a stream that does not end."""
        if self.open >= MOST:
            raise unavailable(f"{MOST} browsers look at this page already.")
        position = Position.of(request.headers.get("Last-Event-ID"))
        # else eventlet holds back what is shorter than 4 KiB
        request.environ["eventlet.minimum_write_chunk_size"] = 0
        return Response(self._events(position), content_type="text/event-stream")

    def _events(self, position: Position | None) -> Iterator[bytes]:
        self.open += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            while True:
                news = self.ring.news
                spans, position, is_lost = self.ring.after(position, AT_ONCE)
                if is_lost:
                    yield event("lost", {}, position if not spans else None)
                if spans:
                    yield event("spans", spans, position)
                    continue
                with Timeout(HEARTBEAT_S, False):
                    news.wait()
                    continue
                yield b": still here\n\n"
        finally:
            self.open -= 1


def event(name: str, data: Any, position: Position | None) -> bytes:
    """Return one event; without a position it does not change what the browser has got last."""
    head = "" if position is None else f"id: {position}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
