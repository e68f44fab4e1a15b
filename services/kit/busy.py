"""What was found locked a moment ago: the next callers fail at once, rather than wait in a worker each."""

import time
from collections.abc import Hashable
from typing import Any

from nameko.extensions import DependencyProvider

REMEMBERED_S = 1.0


class Busy(DependencyProvider):
    """Remembers for REMEMBERED_S what somebody else has locked: `busy = Busy()`, then `user_id in self.busy`.

    (Nygard, "Release It!", 2007: circuit breaker, one for each key.)
    """

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}

    def get_dependency(self, worker_ctx: Any) -> "Busy":
        return self

    def add(self, key: Hashable) -> None:
        """Remember that `key` was found locked just now."""
        now = time.monotonic()
        self._until = {other: until for other, until in self._until.items() if until > now}
        self._until[key] = now + REMEMBERED_S

    def __contains__(self, key: Hashable) -> bool:
        return self._until.get(key, 0.0) > time.monotonic()
