"""The spans as server-sent events (HTML Living Standard, section 9.2): one event for those that came together.

The id of an event is the position of its last span in the ring. A browser that has lost its connection sends the id
of the last event that it got as Last-Event-ID, and so gets every span once that is still in the ring. An event `lost`
says that some are not.
"""

import json
from collections.abc import Iterator

from eventlet import Timeout
from werkzeug.wrappers import Request, Response

from services.kit.web.sse import HEARTBEAT, HEARTBEAT_S, LAST_EVENT_ID, Streams, event
from services.local.page.spans import Position, Ring

AT_ONCE = 500  # spans in an event
MOST = 20  # browsers


class Stream:
    """Sends what comes into a ring to any number of browsers, up to MOST."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.open = Streams(MOST)

    def answer(self, request: Request) -> Response:
        """Answer with a stream that does not end."""
        return self.open.answer(request, self._events(Position.of(request.headers.get(LAST_EVENT_ID))))

    def _events(self, position: Position | None) -> Iterator[bytes]:
        while True:
            news = self.ring.news
            spans, position, is_lost = self.ring.after(position, AT_ONCE)
            if is_lost:
                yield event(position if not spans else None, "lost", "{}")
            if spans:
                yield event(position, "spans", json.dumps(spans, separators=(",", ":")))
                continue
            with Timeout(HEARTBEAT_S, False):
                news.wait()
                continue
            yield HEARTBEAT
