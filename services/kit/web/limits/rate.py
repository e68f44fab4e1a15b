"""A limit of the requests of each client in a time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

REMEMBERED = 10_000  # clients, those that came last
SECOND = 10**9  # in nanoseconds, in which all is counted: whole numbers add up


class Quota(NamedTuple):
    """What a client has left after a request."""

    is_exceeded: bool
    left: int
    wait_s: int  # until the next request is let in, if it is exceeded; until nothing is used any more, if not


class Rate:
    """Lets a client send `most` requests at once, and gives that back evenly within `window_s` seconds.

    It keeps one number for each client: when nothing of its quota will be used any more. (The generic cell rate
    algorithm, ITU-T I.371, annex A.)
    """

    def __init__(self, most: int, window_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cost = window_s * SECOND // most
        self._all = self._cost * most
        self._unused_at: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._unused_at)

    def spend(self, client: Hashable) -> Quota:
        """Count a request of a client, unless it is one too many."""
        now = int(self._clock() * SECOND)
        unused_at = max(now, self._unused_at.get(client, now))
        used = unused_at - now + self._cost
        if is_exceeded := used > self._all:
            quota = Quota(is_exceeded, 0, _seconds(used - self._all))
        else:
            unused_at += self._cost
            quota = Quota(is_exceeded, (self._all - used) // self._cost, _seconds(used))
        self._unused_at[client] = unused_at
        self._unused_at.move_to_end(client)
        if len(self._unused_at) > REMEMBERED:
            self._unused_at.popitem(last=False)
        return quota


def _seconds(nanoseconds: int) -> int:
    return -(-nanoseconds // SECOND)
