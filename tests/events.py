"""A client of the stream of events, as a browser's EventSource is one."""

import json
from threading import Thread
from typing import Any, NamedTuple, Self

import requests

from services.kit.web.sse import HEARTBEAT_S
from services.local.net import wait_for
from tests.client import LETTER_S

SILENT_S = 3 * HEARTBEAT_S
LONG_S = 600


class Seen(NamedTuple):
    """An event that has come."""

    id: str
    type: str
    letter: dict[str, Any]


class Follower:
    """Follows `GET /events` from `with` on until its end, or that of the stream."""

    def __init__(self, url: str, last_id: str | None = None, **query: str) -> None:
        self.events: list[Seen] = []
        self.last_id = last_id
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        # what waits for longer than some heartbeats is no stream any more
        self.answer = requests.get(f"{url}/events", query, headers=headers, stream=True, timeout=SILENT_S)
        self.thread = Thread(target=self._read)

    def __enter__(self) -> Self:
        assert self.answer.status_code == 200, self.answer.text
        self.thread.start()
        wait_for(lambda: self.last_id, LETTER_S, "the position of a stream")
        return self

    def __exit__(self, *_: object) -> None:
        if (connection := self.answer.raw.connection) and connection.sock:
            connection.sock.shutdown(2)
        self.thread.join(LETTER_S)
        self.answer.close()

    @property
    def is_open(self) -> bool:
        return self.thread.is_alive()

    def wait_for(self, count: int) -> list[Seen]:
        """Return the events, once there are so many."""
        return wait_for(lambda: self.events if len(self.events) >= count else None, LETTER_S, f"{count} events")

    def _read(self) -> None:
        block: dict[str, str] = {}
        try:
            for line in self.answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line:
                    name, _, value = line.partition(": ")
                    block[name] = value
                    continue
                self._take(block)
                block = {}
        except (requests.RequestException, OSError, AttributeError):
            return  # it was cut off

    def _take(self, block: dict[str, str]) -> None:
        if "data" in block:
            self.events.append(Seen(block["id"], block["event"], json.loads(block["data"])))
        self.last_id = block.get("id", self.last_id)


class Browser:
    """Follows from `with` on until its end, and comes back whenever its stream ends, to where it was."""

    def __init__(self, url: str, after: str | None = None) -> None:
        self.url = url
        self.events: list[Seen] = []
        self.streams = 0
        self.stream: Follower | None = None  # the one that is read now, or was last
        self._last_id = after
        self._is_over = False
        self._thread = Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.streams, LETTER_S, "the first stream")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join(SILENT_S)

    def _follow(self) -> None:
        while not self._is_over:
            try:
                with Follower(self.url, self._last_id) as stream:
                    self.stream = stream
                    self.streams += 1
                    wait_for(lambda stream=stream: self._is_over or not stream.is_open, LONG_S, "the end of a stream")
            except (requests.RequestException, AssertionError):
                continue  # nobody is there now
            self.events += stream.events
            self._last_id = stream.last_id
