"""The relay of an outbox: a thread that publishes what is in it.

An event is published from memory right after its commit, under a lease that its row was written with. What a
crash leaves in the table is found there, by any replica, once its lease is over.
"""
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import eventlet
from eventlet import Timeout
from eventlet.event import Event as Wake
from nameko.standalone.events import get_event_exchange
from sqlalchemy import Connection

from services.common import metrics
from services.common.database import Database, Prepared
from services.common.problems import OUTCOME_UNKNOWN, Unavailable
from services.common.publisher import LazyPublisher, Message
from services.contracts import Event

log = logging.getLogger(__name__)

JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
REMOVE_EVERY_S, REMOVE_BATCH = 10, 1000


class Envelope(NamedTuple):
    """An event on its way; `body` is JSON."""

    event_id: str
    type: str
    body: str

    @classmethod
    def of(cls, fact: Event) -> "Envelope":
        return cls(str(fact.event_id), fact.TYPE, fact.model_dump_json())


class Relay:
    """Publishes the events of one service's outbox. `run` it in a thread of its own."""

    def __init__(self, container: Any, database: Database, publisher: LazyPublisher) -> None:
        self.service = container.service_name
        self.exchange = get_event_exchange(self.service, container.config)
        self.settings = container.settings
        self.database = database
        self.publisher = publisher
        self._fresh: list[Envelope] = []  # committed, under our lease, not yet published
        self._under_way: list[str] = []   # event ids: sent, in this order, and not yet recorded
        self._wake = Wake()
        self._stopping = False
        self._look_at = self._remove_at = 0.0

    def publish_soon(self, events: Sequence[Envelope]) -> None:
        """Publish events that are committed; their lease is ours, so nobody else does so unless we die."""
        self._fresh += events
        self._wake_up()

    def stop(self) -> None:
        """Let `run` return once all that is in memory is published."""
        self._stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def run(self) -> None:
        """Publish until `stop`, and then once more."""
        stopping = False
        while not stopping:
            stopping, self._wake = self._stopping, Wake()
            try:
                self._round(stopping)
            except OUTCOME_UNKNOWN as error:
                log.warning("the outbox waits: %s", type(error).__name__)
            except Exception:
                log.exception("the outbox waits")
            with Timeout(0 if self._stopping else max(self._look_at - time.monotonic(), 0), False):
                self._wake.wait()
            if not self._stopping:
                eventlet.sleep(self.settings.OUTBOX_GATHER_S)

    def _round(self, is_last: bool) -> None:
        while self._fresh:
            events, self._fresh = self._fresh, []
            self._send(events)
            if len(self._under_way) >= self.settings.OUTBOX_BATCH:
                self._record()
        now = time.monotonic()
        if is_last or now >= self._look_at:
            self._look_at = now + self.settings.OUTBOX_INTERVAL_S
            self._record()
            while self._relay_left_over():
                pass
            self._measure()
        if now >= self._remove_at:
            self._remove_at = now + REMOVE_EVERY_S
            while self._remove_old() == REMOVE_BATCH:
                pass

    def _relay_left_over(self) -> bool:
        """Publish events that no relay holds any more; say whether there may be more of them at once."""
        with self.database.autocommit() as connection:
            events = claim(connection, self.settings.OUTBOX_BATCH, self.settings.OUTBOX_LEASE_S)
        if not events:
            return False
        self._send(events)
        return self._record() == self.settings.OUTBOX_BATCH

    def _send(self, events: Sequence[Envelope]) -> None:
        """Send events; `_record` asks later whether they have arrived."""
        self._under_way += [event.event_id for event in events]
        try:
            self.publisher.publish_lazily([
                Message(event.body.encode(), self.exchange, event.type, encoded=JSON) for event in events])
        except Unavailable as error:
            log.warning("%d events wait in the outbox: %s", len(self._under_way), error)
            lost, self._under_way = self._under_way, []
            self._give_back(lost)

    def _record(self) -> int:
        """Wait for the confirms, write down what the broker has, give back the rest; say how many it has.

        This need not follow each `_send`: what a crash leaves unrecorded is published again, and found done.
        """
        sent, self._under_way = self._under_way, []
        if not sent:
            return 0
        try:
            taken = self.publisher.confirms()
        except Unavailable as error:
            log.warning("%d events wait in the outbox: %s", len(sent), error)
            self._give_back(sent)
            return 0
        published = [event_id for event_id, is_taken in zip(sent, taken, strict=True) if is_taken]
        if published:
            with self.database.autocommit() as connection:
                record(connection, published)
        if len(published) < len(sent):
            log.warning("%d events have no queue yet, and wait in the outbox", len(sent) - len(published))
            self._give_back([event_id for event_id, is_taken in zip(sent, taken, strict=True) if not is_taken])
        metrics.EVENTS_PUBLISHED.labels(self.service).inc(len(published))
        return len(published)

    def _give_back(self, event_ids: list[str]) -> None:
        """End our lease on events, for any relay to publish them."""
        with self.database.autocommit() as connection:
            give_back(connection, event_ids)

    def _remove_old(self) -> int:
        with self.database.autocommit() as connection:
            return remove_old(connection, REMOVE_BATCH, self.settings.OUTBOX_KEEP_S)

    def _measure(self) -> None:
        with self.database.autocommit() as connection:
            waiting, lag_s = count_waiting(connection)
        metrics.OUTBOX_WAITING.labels(self.service).set(waiting)
        metrics.OUTBOX_LAG.labels(self.service).set(lag_s)


CLAIM = Prepared("claim_events", ["integer", "interval"], """
    update outbox set claimed_until = now() + $2
    where id in (select id from outbox where published_at is null and claimed_until < now()
                 order by id limit $1 for update skip locked)
    returning id, cast(event_id as text) as event_id, type, cast(body as text) as body""")

RECORD = Prepared("record_events", ["uuid[]"], "update outbox set published_at = now() where event_id = any($1)")

GIVE_BACK = Prepared("give_back_events", ["uuid[]"], """
    update outbox set claimed_until = '-infinity' where event_id = any($1)""")

COUNT_WAITING = Prepared("count_waiting_events", [], """
    select count(*) as waiting, coalesce(extract(epoch from now() - min(created_at)), 0) as age_s
    from outbox where published_at is null""")

#: Looks at the oldest rows only, so that it costs the same however many there are.
REMOVE_OLD = Prepared("remove_old_events", ["integer", "interval"], """
    delete from outbox where id in (
        select id from (select id, published_at from outbox order by id limit $1) as oldest
        where published_at < now() - $2)""")


def claim(connection: Connection, batch: int, lease_s: float) -> list[Envelope]:
    """Take a lease on up to `batch` events that wait, oldest first, passing over those that others hold."""
    rows = sorted(CLAIM.run(connection, batch, timedelta(seconds=lease_s)), key=lambda row: row.id)
    return [Envelope(row.event_id, row.type, row.body) for row in rows]


def record(connection: Connection, event_ids: list[str]) -> None:
    """Write down that the broker has these events."""
    RECORD.run(connection, event_ids)


def give_back(connection: Connection, event_ids: list[str]) -> None:
    """End the lease on these events."""
    GIVE_BACK.run(connection, event_ids)


def count_waiting(connection: Connection) -> tuple[int, float]:
    """How many events wait, and the age of the oldest in seconds."""
    row = COUNT_WAITING.run(connection).one()
    return int(row.waiting), float(row.age_s)


def remove_old(connection: Connection, batch: int, keep_s: float) -> int:
    """Remove those of the `batch` oldest events that were published more than `keep_s` seconds ago; say how many."""
    return REMOVE_OLD.run(connection, batch, timedelta(seconds=keep_s)).rowcount
