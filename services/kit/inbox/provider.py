"""The inbox: events that failed, as rows of the handling service's own database.

An event that fails is committed here before it is acknowledged. A thread leases the rows that are due, and has each
event handled alone. Each failure waits longer than the one before. After the last pause the row is a dead letter,
which waits for a person. A message that cannot be read is a dead letter at once, kept as the bytes that came.

What a crash leaves: before the commit, nothing, and the broker delivers the message again; after it, the row, which
the second delivery finds; between handling an event and removing its row, a row whose lease ends, so that the event is
handled again and found to be done.
(Hohpe and Woolf, "Enterprise Integration Patterns", 2003: dead letter channel, idempotent receiver.)
"""

import logging
import time
from typing import Any, Protocol

from eventlet.event import Event as Signal
from eventlet.semaphore import Semaphore
from nameko.extensions import DependencyProvider

from services.kit.db.database import Database
from services.kit.errors import OUTCOME_UNKNOWN
from services.kit.inbox import table
from services.kit.inbox.table import DueMessage, FailedMessage, InboxRow
from services.kit.outage import Outage, next_pause_s
from services.kit.seams import Container, Thread

log = logging.getLogger(__name__)

AT_ONCE = 5  # events of the inbox that are handled at a time, so that a slow one delays few others
MEASURE_EVERY_S = 5


class Handler(Protocol):
    """What the inbox needs of an event handler."""

    def handle_again(self, event: DueMessage) -> None:
        """Have a worker handle `event`, then call `Inbox.succeeded` or `failed`, and in any case `free_slot`."""


class Inbox(DependencyProvider):
    """Keeps the events that a service could not handle: `inbox = Inbox(models.InboxEvent)`."""

    container: Container
    database: Database
    outage: Outage
    _thread: Thread | None = None

    def __init__(self, model: type[InboxRow]) -> None:
        self.model = model
        self.handlers: dict[str, Handler] = {}
        self._stop = Signal()
        self._slots = Semaphore(AT_ONCE)
        self._measure_at = 0.0

    def get_dependency(self, worker_ctx: Any) -> "Inbox":
        return self

    def setup(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self.outage = Outage(f"event handling of {self.container.service_name}", "its database")

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self._run, identifier="inbox")

    def stop_leasing(self) -> None:
        """Begin no more attempts; those under way go on."""
        if not self._stop.ready():
            self._stop.send()

    def stop(self) -> None:
        self.stop_leasing()
        if self._thread is not None:
            self._thread.wait()

    def kill(self) -> None:
        if self._thread is not None:
            self._thread.kill()

    def keep(self, handler: str, event: FailedMessage, pause_s: float | None) -> bool:
        """Commit an event that failed, due after `pause_s`, or dead for None; return False if it was there."""
        with self.database.autocommit() as connection:
            return table.keep(connection, handler, event, pause_s)

    def succeeded(self, event: DueMessage) -> None:
        """Remove an event that was handled."""
        with self.database.autocommit() as connection:
            table.remove(connection, event)

    def failed(self, event: DueMessage, attempts: int, reason: str, pause_s: float | None) -> None:
        """Note that another attempt failed, unless another replica has; `pause_s` is that of `keep`."""
        with self.database.autocommit() as connection:
            table.fail(connection, event, attempts, reason, pause_s)

    def free_slot(self) -> None:
        """Let the next attempt begin: one is over."""
        self._slots.release()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.ready():
            try:
                self._handle_due()
                self._measure()
            except Exception as error:
                pause_s = next_pause_s(pause_s)
                if isinstance(error, OUTCOME_UNKNOWN):
                    self.outage.begin(type(error).__name__, "the inbox")
                else:
                    log.exception("the inbox waits")
            else:
                pause_s = 0.0
                self.outage.end("the inbox")
            self._stop.wait(pause_s or self.container.settings.INBOX_INTERVAL_S)

    def _handle_due(self) -> None:
        """Have the events that are due handled, AT_ONCE at a time."""
        while not self._stop.ready():
            self._slots.acquire()
            try:
                event = self._lease()
            except BaseException:
                self.free_slot()
                raise
            if event is None or self._stop.ready():  # what was leased meanwhile is due again when the lease has ended
                self.free_slot()
                return
            self._begin(event)

    def _begin(self, event: DueMessage) -> None:
        handler = self.handlers.get(event.handler)
        if handler is not None:
            handler.handle_again(event)
            return
        try:  # the event is for a handler that this version no longer has
            self.failed(event, event.attempts, f"there is no handler {event.handler}", None)
        finally:
            self.free_slot()

    def _lease(self) -> DueMessage | None:
        with self.database.autocommit() as connection:
            return table.lease(connection, self.container.settings.INBOX_LEASE_S)

    def _measure(self) -> None:
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + MEASURE_EVERY_S
        with self.database.autocommit() as connection:
            waiting, dead = table.count(connection)
        self.container.metrics.inbox_waiting.labels(self.container.service_name).set(waiting)
        self.container.metrics.dead_letters.labels(self.container.service_name).set(dead)
