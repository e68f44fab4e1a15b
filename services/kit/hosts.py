"""Several hosts, one of which has to answer within a deadline."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

NODE_SEPARATOR = ";"  # between the URIs of several nodes of the broker, as for kombu


def shares(items: Sequence[T], timeout_s: float) -> Iterator[tuple[T, float]]:
    """Return each of `items` with its share of the time that is left, in seconds."""
    deadline = time.monotonic() + timeout_s
    for number, item in enumerate(items):
        yield item, max(0.0, deadline - time.monotonic()) / (len(items) - number)
