"""Waiting for what may be locked: one caller at a time does, and when it was in vain the next ones fail at once."""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from eventlet.semaphore import Semaphore
from nameko.extensions import DependencyProvider

from services.kit.seams import Container

REMEMBERED_S = 1.0


class Busy(DependencyProvider):
    """Remembers for REMEMBERED_S what somebody else has locked: `busy = Busy()`, then `user_id in self.busy`.

    (Nygard, "Release It!", 2007: circuit breaker, one for each key.)
    """

    container: Container

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}
        self._queues: dict[Hashable, Semaphore] = {}

    def get_dependency(self, worker_ctx: Any) -> "Busy":
        return self

    def add(self, key: Hashable) -> None:
        """Remember that `key` was found locked just now."""
        now = time.monotonic()
        self._until = {other: until for other, until in self._until.items() if until > now}
        self._until[key] = now + REMEMBERED_S

    @contextmanager
    def one_at_a_time(self, key: Hashable) -> Iterator[bool]:
        """Let one caller of `key` in after the other, so that all of them together hold one connection while they wait.

        Yield False, at once or after DB_TIMEOUT_S, to one who is not to try: `key` was found locked meanwhile, or is
        still waited for.
        """
        queue = self._queues.setdefault(key, Semaphore())
        try:
            if not queue.acquire(timeout=self.container.settings.DB_TIMEOUT_S):
                yield False
                return
            try:
                yield key not in self
            finally:
                queue.release()
        finally:
            if queue.balance == 1:  # nobody is in, and nobody waits
                self._queues.pop(key, None)

    def __contains__(self, key: Hashable) -> bool:
        return self._until.get(key, 0.0) > time.monotonic()
