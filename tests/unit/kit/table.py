"""A table in a database that can be away, for what looks at it again and again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import eventlet
from eventlet import Timeout

from services.kit.outage import Outage


class Table:
    """Stands behind a provider that has a container, a database and an outage; `failure` is what all statements raise.

    Its heirs say what is found, by a method `find`, which runs in place of the provider's statement of that name.
    """

    find: Callable[..., Any]

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.threads: list[Any] = []

    def stand_behind(self, provider: Any, what: str) -> None:
        """Have `provider`, which does `what`, ask this table."""
        provider.container = SimpleNamespace(service_name="unit", dependencies=(), spawn_managed_thread=self.spawn)
        provider.find = SimpleNamespace(run=self.find)
        provider.database = SimpleNamespace(autocommit=self.autocommit)
        provider._outage = Outage(what, "its database")

    def spawn(self, function: Callable[[], None], identifier: str = "") -> Any:
        self.threads.append(eventlet.spawn(function))
        return self.threads[-1]

    @contextmanager
    def autocommit(self) -> Iterator[None]:
        eventlet.sleep(0)
        if self.failure:
            raise self.failure
        yield


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait as green threads do; that of `services.local.net` would stop them all."""
    with Timeout(timeout_s, AssertionError(what)):
        while not condition():
            eventlet.sleep(0.005)
