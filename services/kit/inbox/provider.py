"""Events that failed: rows of the handling service's own database, until they are handled, or dropped by a person.

An event that fails is committed here before it is acknowledged. A timer claims what is due, under a lease, and has it
handled alone; each failure waits longer than the one before, and after the last pause the row is a dead letter, one
without a next attempt. What cannot be read is a dead letter at once, kept as the bytes that came.

What a crash leaves: before the commit, nothing, and the broker delivers again; after it, the row, which a second
delivery finds; between handling an event and removing its row, a row whose lease ends, so that the event is handled
again and found to be done.
(Hohpe and Woolf, "Enterprise Integration Patterns", 2003: dead letter channel, idempotent receiver.)
"""

import json
import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from eventlet.event import Event
from eventlet.semaphore import Semaphore
from nameko.extensions import DependencyProvider
from sqlalchemy import BigInteger, Identity, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from services.kit.db.database import Database
from services.kit.db.statements import PreparedStatement
from services.kit.errors import OUTCOME_UNKNOWN

log = logging.getLogger(__name__)

AT_ONCE = 5  # events from the inbox that are handled at a time, so that a slow one delays few others
MEASURE_EVERY_S = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0  # between two tries while the database is away


class InboxRow:
    """The inbox table, for a service's models to inherit. Without a `next_attempt_at` a row is a dead letter."""

    __tablename__ = "inbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    handler: Mapped[str]
    key: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    content_type: Mapped[str | None]
    content_encoding: Mapped[str | None]
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime | None]
    reason: Mapped[str]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    failed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("handler", "key"),
            Index("inbox_due", "next_attempt_at", postgresql_where=text("next_attempt_at is not null")),
            Index("inbox_dead", "id", postgresql_where=text("next_attempt_at is null")),
        )


class Failed(NamedTuple):
    """An event as it came from the broker, and what became of it. `key` is its id, or the hash of its bytes."""

    key: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    attempts: int
    reason: str


class Due(NamedTuple):
    """A row whose next attempt is due, leased to this process."""

    id: int
    handler: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    attempts: int


class Handler(Protocol):
    """What the inbox needs of an event handler."""

    def handle_again(self, row: Due) -> None:
        """Have a worker handle the event in `row`; `Inbox.succeeded`, `failed` or `left` says how it went."""


class Inbox(DependencyProvider):
    """Keeps the events that a service could not handle: `inbox = Inbox(models.Inbox)`."""

    database: Database

    def __init__(self, model: type[InboxRow]) -> None:
        self.model = model
        self.handlers: dict[str, Handler] = {}
        self._stop = Event()
        self._slots = Semaphore(AT_ONCE)
        self._measure_at = 0.0

    def get_dependency(self, worker_ctx: Any) -> "Inbox":
        return self

    def setup(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self.outage = Outage(self.container.service_name)

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self._run, identifier="inbox")

    def stop_taking(self) -> None:
        """Begin no more attempts; those under way go on."""
        if not self._stop.ready():
            self._stop.send()

    def stop(self) -> None:
        self.stop_taking()
        self._thread.wait()

    def kill(self) -> None:
        if hasattr(self, "_thread"):
            self._thread.kill()

    def keep(self, handler: str, event: Failed, pause_s: float | None) -> bool:
        """Commit an event that failed, to be tried again after `pause_s`, never for None; False if it was there."""
        with self.database.autocommit() as connection:
            added = KEEP.run(
                connection,
                handler,
                clean(event.key),
                event.body,
                clean(event.content_type),
                clean(event.content_encoding),
                as_json(event.headers),
                event.attempts,
                clean(event.reason),
                _interval(pause_s),
            )
            return added.one_or_none() is not None

    def succeeded(self, row: Due) -> None:
        """Remove an event that is handled."""
        with self.database.autocommit() as connection:
            REMOVE.run(connection, row.id)

    def failed(self, row: Due, attempts: int, reason: str, pause_s: float | None) -> None:
        """Write down that an attempt failed, unless another replica already has; `pause_s` as in `keep`."""
        with self.database.autocommit() as connection:
            FAIL.run(connection, row.id, row.attempts, attempts, clean(reason), _interval(pause_s))

    def left(self) -> None:
        """Have the next event taken: the attempt at one is over."""
        self._slots.release()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.ready():
            try:
                self._handle_due()
                self._measure()
            except Exception as error:
                pause_s = longer(pause_s)
                if is_outage(error):
                    self.outage.begins("the inbox", error)
                else:
                    log.exception("the inbox waits")
            else:
                pause_s = 0.0
                self.outage.ends("the inbox")
            self._stop.wait(pause_s or self.container.settings.INBOX_INTERVAL_S)

    def _handle_due(self) -> None:
        """Have all events handled that are due, AT_ONCE at a time."""
        while not self._stop.ready():
            self._slots.acquire()
            try:
                row = self._claim()
            except BaseException:
                self.left()
                raise
            if row is None or self._stop.ready():  # a claimed one is due again when its lease is over
                self.left()
                return
            self._begin(row)

    def _begin(self, row: Due) -> None:
        handler = self.handlers.get(row.handler)
        if handler is not None:
            handler.handle_again(row)
            return
        try:  # of an older version
            self.failed(row, row.attempts, f"there is no handler {row.handler}", None)
        finally:
            self.left()

    def _claim(self) -> Due | None:
        with self.database.autocommit() as connection:
            row = CLAIM.run(connection, _interval(self.container.settings.INBOX_LEASE_S)).one_or_none()
        return row and Due(
            row.id, row.handler, bytes(row.body), row.content_type, row.content_encoding, row.headers, row.attempts
        )

    def _measure(self) -> None:
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + MEASURE_EVERY_S
        with self.database.autocommit() as connection:
            row = COUNT.run(connection).one()
        self.container.metrics.inbox_waiting.labels(self.container.service_name).set(row.waiting)
        self.container.metrics.dead_letters.labels(self.container.service_name).set(row.dead)


class Outage:
    """What is known of the database being away; a line in the log when it begins, and one when it ends."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._noticed_by: set[str] = set()
        self._began = 0.0

    def begins(self, who: str, error: BaseException) -> None:
        """Note that `who` has met the outage."""
        if not self._noticed_by:
            self._began = time.monotonic()
            log.warning("%s takes no events until its database is back: %s", self._service, type(error).__name__)
        self._noticed_by.add(who)

    def ends(self, who: str) -> None:
        """Note that `who` works again; when all do, the outage is over."""
        if who in self._noticed_by:
            self._noticed_by.remove(who)
            if not self._noticed_by:
                log.info("%s takes events again, after %.1f s", self._service, time.monotonic() - self._began)


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, which is no fault of the event's, rather than there and unable to do this."""
    return isinstance(error, OUTCOME_UNKNOWN)


def longer(pause_s: float) -> float:
    """The pause after one of `pause_s`."""
    return min(max(pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)


def clean(value: str | None) -> str | None:
    """Text as PostgreSQL can store it, whatever came: without NUL and lone surrogates."""
    return value and value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def as_json(headers: Mapping[str, Any]) -> str:
    """The headers of a message as JSON that PostgreSQL can store: no NaN, NUL or lone surrogates."""
    plain = json.loads(json.dumps(dict(headers), default=str), parse_constant=str)
    return str(clean(json.dumps(plain, ensure_ascii=False).replace("\\u0000", "\ufffd")))


def _interval(pause_s: float | None) -> timedelta | None:
    return None if pause_s is None else timedelta(seconds=pause_s)


#: A second delivery of an event that is here already changes nothing: its own attempts go on.
KEEP = PreparedStatement(
    "keep_event",
    ["text", "text", "bytea", "text", "text", "jsonb", "integer", "text", "interval"],
    """
    insert into inbox (handler, key, body, content_type, content_encoding, headers, attempts, reason, next_attempt_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9)
    on conflict (handler, key) do nothing
    returning id""",
)

CLAIM = PreparedStatement(
    "claim_failed_event",
    ["interval"],
    """
    update inbox set next_attempt_at = now() + $1 where id = (
        select id from inbox where next_attempt_at <= now()
        order by next_attempt_at limit 1 for update skip locked)
    returning id, handler, body, content_type, content_encoding, headers, attempts""",
)

REMOVE = PreparedStatement("remove_failed_event", ["bigint"], "delete from inbox where id = $1")

#: Only once for each attempt, if the lease was over and another replica made it too.
FAIL = PreparedStatement(
    "fail_event_again",
    ["bigint", "integer", "integer", "text", "interval"],
    """
    update inbox set attempts = $3, reason = $4, next_attempt_at = now() + $5, failed_at = now()
    where id = $1 and attempts = $2 and next_attempt_at is not null""",
)

COUNT = PreparedStatement(
    "count_failed_events",
    [],
    """
    select (select count(*) from inbox where next_attempt_at is not null) as waiting,
           (select count(*) from inbox where next_attempt_at is null) as dead""",
)
