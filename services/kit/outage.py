"""Outages in the log, with one line at the beginning and one at the end, and the pauses between attempts."""

import logging
import time

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0


class Outage:
    """The time in which `resource` is away, so that `work` is paused. Several users of the resource may report it.

    The outage is over when everybody who has met it has ended it.
    """

    def __init__(self, work: str, resource: str) -> None:
        self._work = work
        self._resource = resource
        self._reported_by: set[str] = set()
        self._began = 0.0

    @property
    def is_on(self) -> bool:
        return bool(self._reported_by)

    def begin(self, why: str, by: str = "") -> None:
        """Note that `by`, a user of the resource, has met the outage."""
        if not self.is_on:
            self._began = time.monotonic()
            log.warning("%s paused: %s is away (%s)", self._work, self._resource, why)
        self._reported_by.add(by)

    def end(self, by: str = "") -> None:
        """Note that the resource has answered `by`."""
        if by in self._reported_by:
            self._reported_by.remove(by)
            if not self.is_on:
                duration_s = time.monotonic() - self._began
                log.info("%s resumed: %s is back after %.0f s", self._work, self._resource, duration_s)


def next_pause_s(pause_s: float) -> float:
    """Return how long to wait after a pause of `pause_s` that has not helped, 0 for the first: twice as long."""
    return min(max(pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
