"""The relay of an outbox: a thread that publishes what is in it.

An event is published from memory right after its commit, under a lease that its row was written with. What a
crash leaves in the table is found there, by any replica, once its lease is over.

An event that no queue takes, or that the broker refuses, waits the longer the older it is, and holds up no other.
While the broker is away, one event at a time finds out whether it is back.
"""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import eventlet
from eventlet import Timeout
from eventlet.event import Event as Wake
from nameko.standalone.events import get_event_exchange
from sqlalchemy import Connection

from services.kit.amqp.publisher import Message, PipelinedPublisher, Refused
from services.kit.db.database import Database
from services.kit.db.statements import PreparedStatement
from services.kit.errors import PASSING, Unavailable
from services.kit.outbox.table import OutgoingEvent

log = logging.getLogger(__name__)

JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
REMOVE_EVERY_S, REMOVE_BATCH, REMOVE_BATCHES = 10, 1000, 100
LONGEST_PROBE = 5  # intervals that an event waits which has found the broker away: another one may be the next to try
SAY_AGAIN_S = 60.0  # that events have no queue is logged once in so long


class Outage:
    """Something that is away: says so once when that begins, and once when it ends."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began: float | None = None

    @property
    def is_on(self) -> bool:
        return self._began is not None

    def begin(self, why: str) -> None:
        if self._began is None:
            self._began = time.monotonic()
            log.warning("events wait in the outbox: %s is away (%s)", self.what, why)

    def end(self) -> None:
        if self._began is not None:
            log.info("the outbox goes on: %s is back after %.0f s", self.what, time.monotonic() - self._began)
            self._began = None


class Relay:
    """Publishes the events of one service's outbox. `run` it in a thread of its own."""

    def __init__(self, container: Any, database: Database, publisher: PipelinedPublisher) -> None:
        self.service = container.service_name
        self.exchange = get_event_exchange(self.service, container.config)
        self.settings = container.settings
        self.metrics = container.metrics
        self.database = database
        self.publisher = publisher
        self._fresh: list[OutgoingEvent] = []  # committed, under our lease, not yet published
        self._under_way: list[OutgoingEvent] = []  # sent, in this order, and not yet recorded
        self._wake = Wake()
        self._stopping = False
        self._look_at = self._measure_at = self._remove_at = self._say_at = 0.0
        self._looked_to = 0  # the id up to which old events have been looked for
        self._batch = self.settings.OUTBOX_BATCH  # how many to claim: one while the broker is away, then more again
        self._no_broker, self._no_database = Outage("the broker"), Outage("the database")

    def publish_soon(self, events: Sequence[OutgoingEvent]) -> None:
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
            self.work(stopping)
            with Timeout(0 if self._stopping else max(self._look_at - time.monotonic(), 0), False):
                self._wake.wait()
            if not self._stopping:
                eventlet.sleep(self.settings.OUTBOX_GATHER_S)

    def work(self, is_last: bool = False) -> None:
        """Do one round; whatever fails in it is tried again by another, when the leases are over."""
        try:
            self._round(is_last)
        except PASSING as error:
            self._no_database.begin(type(error).__name__)
        except Exception:
            log.exception("the outbox waits")

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
            self._relay_left_over()
        if now >= self._measure_at:
            self._measure_at = now + self.settings.OUTBOX_INTERVAL_S
            self._measure()
        if now >= self._remove_at:
            self._remove_at = now + REMOVE_EVERY_S
            self._remove_old()

    def _relay_left_over(self) -> None:
        """Publish events that no relay holds any more, until there are none, fresh ones come, or a second is over."""
        while True:
            with self.database.autocommit() as connection:
                events = claim(connection, self._batch, self.settings.OUTBOX_LEASE_S)
            self._no_database.end()
            if events:
                self._send(events)
                self._record()
            if not events or self._no_broker.is_on:
                return
            if self._fresh or time.monotonic() >= self._look_at:
                self._look_at = 0.0  # go on in the next round
                return

    def _send(self, events: Sequence[OutgoingEvent]) -> None:
        """Send events; `_record` asks later whether they have arrived."""
        self._under_way += events
        try:
            self.publisher.send([self._message(event) for event in events])
        except Unavailable as error:
            sent, self._under_way = self._under_way, []
            self._send_again_or_give_back(sent, error)

    def _message(self, event: OutgoingEvent) -> Message:
        return Message(
            event.body.encode(), self.exchange, event.type, properties={"message_id": event.event_id}, encoded=JSON
        )

    def _record(self) -> None:
        """Wait for the confirms, write down what the broker has, give back the rest.

        This need not follow each `_send`: what a crash leaves unrecorded is published again, and found done.
        """
        sent, self._under_way = self._under_way, []
        if not sent:
            return
        try:
            taken = self.publisher.wait_for_confirms()
        except Unavailable as error:
            self._send_again_or_give_back(sent, error)
            return
        self._no_broker.end()
        self._batch = min(2 * self._batch, self.settings.OUTBOX_BATCH)
        self._settle(
            [event for event, is_taken in zip(sent, taken, strict=True) if is_taken],
            [event for event, is_taken in zip(sent, taken, strict=True) if not is_taken],
        )

    def _send_again_or_give_back(self, events: list[OutgoingEvent], error: Unavailable) -> None:
        """Deal with events that may be lost: if one is refused find out which, else wait for the broker."""
        if isinstance(error, Refused):
            self._send_alone(events)
        else:
            self._broker_is_away(error, events)

    def _broker_is_away(self, error: Unavailable, events: list[OutgoingEvent]) -> None:
        """Let go of `events`: at once if there are many, and of the one that asked whether it is back, for a while."""
        self._no_broker.begin(str(error))
        self._batch = 1
        self._give_back(events, 0 if len(events) > 1 else LONGEST_PROBE * self.settings.OUTBOX_INTERVAL_S)

    def _send_alone(self, events: list[OutgoingEvent]) -> None:
        """Publish each event by itself, so that one that is refused does not hold up the others."""
        published: list[OutgoingEvent] = []
        refused: list[OutgoingEvent] = []
        for number, event in enumerate(events):
            try:
                [is_taken] = self.publisher.publish([self._message(event)])
            except Refused:
                is_taken = False
            except Unavailable as error:
                self._broker_is_away(error, events[number:])
                break
            (published if is_taken else refused).append(event)
        self._settle(published, refused)

    def _settle(self, published: list[OutgoingEvent], not_taken: list[OutgoingEvent]) -> None:
        """Write down what the broker has; what it has not taken waits the longer the older it is."""
        if published:
            with self.database.autocommit() as connection:
                record(connection, [event.event_id for event in published])
            self.metrics.events_published.labels(self.service).inc(len(published))
        if not_taken:
            self._give_back(not_taken, self.settings.OUTBOX_LEASE_S)
            if time.monotonic() >= self._say_at:
                self._say_at = time.monotonic() + SAY_AGAIN_S
                log.warning(
                    "%d events wait in the outbox: no queue takes them yet, or the broker refuses them: %s",
                    len(not_taken),
                    ", ".join(sorted({event.type[:50] for event in not_taken})),
                )

    def _give_back(self, events: list[OutgoingEvent], longest_pause_s: float) -> None:
        """End our lease on events, for any relay to publish them."""
        with self.database.autocommit() as connection:
            give_back(connection, [event.event_id for event in events], longest_pause_s)

    def _remove_old(self) -> None:
        """Look through a bounded number of events for old ones; the next time go on there, or from the start again."""
        keep_s = self.settings.OUTBOX_KEEP_S
        for _ in range(REMOVE_BATCHES):
            with self.database.autocommit() as connection:
                _, self._looked_to = remove_old(connection, REMOVE_BATCH, keep_s, self._looked_to)
            if not self._looked_to:
                return

    def _measure(self) -> None:
        with self.database.autocommit() as connection:
            waiting, lag_s = count_waiting(connection)
        self.metrics.outbox_waiting.labels(self.service).set(waiting)
        self.metrics.outbox_lag.labels(self.service).set(lag_s)


CLAIM = PreparedStatement(
    "claim_events",
    ["integer", "interval"],
    """
    update outbox set claimed_until = now() + $2
    where id in (select id from outbox where published_at is null and claimed_until < now()
                 order by claimed_until, id limit $1 for update skip locked)
    returning id, cast(event_id as text) as event_id, type, cast(body as text) as body""",
)

RECORD = PreparedStatement(
    "record_events", ["uuid[]"], "update outbox set published_at = now() where event_id = any($1)"
)

#: A pause as long as the event is old doubles from time to time, and needs no count of the attempts.
GIVE_BACK = PreparedStatement(
    "give_back_events",
    ["uuid[]", "interval"],
    """
    update outbox set claimed_until = now() + least(greatest(now() - created_at, interval '1 second'), $2)
    where event_id = any($1)""",
)

COUNT_WAITING = PreparedStatement(
    "count_waiting_events",
    [],
    """
    select count(*) as waiting, coalesce(extract(epoch from now() - min(created_at)), 0) as age_s
    from outbox where published_at is null""",
)

#: Looks at so many rows only, so that it costs the same however many there are, or wait in between.
REMOVE_OLD = PreparedStatement(
    "remove_old_events",
    ["integer", "interval", "bigint"],
    """
    with looked_at as (select id, created_at, published_at from outbox where id > $3 order by id limit $1),
    removed as (delete from outbox where id in (select id from looked_at where published_at < now() - $2) returning id)
    select (select count(*) from removed) as removed,
           case when count(*) = $1 and max(created_at) < now() - $2 then max(id) else 0 end as looked_to
    from looked_at""",
)


def claim(connection: Connection, batch: int, lease_s: float) -> list[OutgoingEvent]:
    """Take a lease on up to `batch` events that wait, the longest free ones first, passing over what others hold."""
    rows = sorted(CLAIM.run(connection, batch, timedelta(seconds=lease_s)), key=lambda row: row.id)
    return [OutgoingEvent(row.event_id, row.type, row.body) for row in rows]


def record(connection: Connection, event_ids: list[str]) -> None:
    """Write down that the broker has these events."""
    RECORD.run(connection, event_ids)


def give_back(connection: Connection, event_ids: list[str], longest_pause_s: float) -> None:
    """End the lease on these events after a pause as long as each is old, of 1 to `longest_pause_s` seconds."""
    GIVE_BACK.run(connection, event_ids, timedelta(seconds=longest_pause_s))


def count_waiting(connection: Connection) -> tuple[int, float]:
    """How many events wait, and the age of the oldest in seconds."""
    row = COUNT_WAITING.run(connection).one()
    return int(row.waiting), float(row.age_s)


def remove_old(connection: Connection, batch: int, keep_s: float, after: int) -> tuple[int, int]:
    """Of the `batch` events with an id above `after`, remove those published more than `keep_s` seconds ago.

    Return how many those were, and the id to go on after; 0 when there can be no more.
    """
    row = REMOVE_OLD.run(connection, batch, timedelta(seconds=keep_s), after).one()
    return int(row.removed), int(row.looked_to)
