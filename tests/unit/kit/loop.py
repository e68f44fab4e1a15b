"""How long the event loop stands still while something is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import eventlet


@contextmanager
def longest_stop() -> Iterator[list[float]]:
    """Measure meanwhile; the one item of the list is the longest time, in seconds, in which nothing else could run."""
    longest = [0.0]

    def turn() -> None:
        last = time.monotonic()
        while True:
            eventlet.sleep(0.01)
            longest[0] = max(longest[0], time.monotonic() - last)
            last = time.monotonic()

    turning = eventlet.spawn(turn)
    eventlet.sleep(0)
    try:
        yield longest
        eventlet.sleep(0.02)
    finally:
        turning.kill()
