"""The relay of an outbox: a thread that publishes its events.

An event is published from memory right after its commit, under the lease that its row was written with. What a crash
leaves in the table is due when its lease has ended, and is published by the relay of any replica.

An event that nobody takes, or that is refused, waits longer the older it is, and does not hold up others. While the
receiver is away, the relay sends one event at a time to find out whether it is back.
"""

import logging
import time
from collections.abc import Sequence

import eventlet
from eventlet import Timeout
from eventlet.event import Event as Wake

from services.kit.db.database import Database
from services.kit.errors import TEMPORARY, Refused, Unavailable
from services.kit.outage import Outage
from services.kit.outbox.statements import count_waiting, lease_batch, mark_published, release, remove_old
from services.kit.outbox.table import OutgoingEvent
from services.kit.outbox.transport import Transport
from services.kit.seams import Container

log = logging.getLogger(__name__)

REMOVE_EVERY_S, REMOVE_BATCH, REMOVE_BATCHES = 10, 1000, 100
#: An event that was sent as a probe in an outage waits for so many intervals, so that the next probe is another event.
PROBE_PAUSE = 5
LOG_AGAIN_S = 60.0  # that events wait is logged once in this time


class Relay:
    """Publishes the events of one service's outbox. `run` it in a thread of its own."""

    def __init__(
        self, container: Container, database: Database, transport: Transport, ignored: frozenset[str] = frozenset()
    ) -> None:
        """Publish by `transport`; events of the `ignored` types, which nobody waits for, are marked and not sent."""
        self.service = container.service_name
        self.settings = container.settings
        self.metrics = container.metrics
        self.database = database
        self.transport = transport
        self.ignored = ignored
        self._fresh: list[OutgoingEvent] = []  # committed, under our lease, not sent yet
        self._in_flight: list[OutgoingEvent] = []  # sent, in this order, not confirmed yet
        self._taken: list[OutgoingEvent] = []  # published by `publish_now`, not marked yet
        self._wake = Wake()
        self._stopping = False
        self._poll_at = self._measure_at = self._remove_at = self._log_at = 0.0
        self._scanned_to = 0  # the id up to which old events have been looked for
        self._batch = self.settings.OUTBOX_BATCH  # how many to lease; 1 while the receiver is away, then more
        self._outage = Outage(f"outbox of {self.service}", transport.receiver)
        self._database_outage = Outage(f"outbox of {self.service}", "its database")

    def publish_soon(self, events: Sequence[OutgoingEvent]) -> None:
        """Take over events that are committed under our lease. Nobody else publishes them unless we die."""
        self._fresh += events
        self._wake_up()

    def publish_now(self, events: Sequence[OutgoingEvent]) -> None:
        """Publish events as `publish_soon` does, but at once and in this thread; take over those that are not taken."""
        for event in events:
            try:
                if self._outage.is_on:
                    raise Unavailable(f"{self.transport.receiver} is away")
                [is_taken] = self.transport.publish([event])
            except Unavailable:
                is_taken = False
            if is_taken:
                self._taken.append(event)  # the next round marks it
            else:
                self.publish_soon([event])

    def stop(self) -> None:
        """Let `run` return once everything in memory is published."""
        self._stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def run(self) -> None:
        """Publish until `stop` is called, and then once more."""
        stopping = False
        while not stopping:
            stopping, self._wake = self._stopping, Wake()
            self.work(stopping)
            with Timeout(0 if self._stopping else max(self._poll_at - time.monotonic(), 0), False):
                self._wake.wait()
            if not self._stopping:
                eventlet.sleep(self.settings.OUTBOX_GATHER_S)

    def work(self, is_last: bool = False) -> None:
        """Do one round. Whatever fails in it is done in a later round, by any replica, when the leases have ended."""
        try:
            self._round(is_last)
        except TEMPORARY as error:
            self._database_outage.begin(type(error).__name__)
        except Exception:
            log.exception("the outbox waits")

    def _round(self, is_last: bool) -> None:
        while self._fresh:
            events, self._fresh = self._fresh, []
            self._send(events)
            if len(self._in_flight) >= self.settings.OUTBOX_BATCH:
                self._wait_for_confirms()
        now = time.monotonic()
        if is_last or now >= self._poll_at:
            self._poll_at = now + self.settings.OUTBOX_INTERVAL_S
            self._wait_for_confirms()
            self._publish_due()
        if now >= self._measure_at:
            self._measure_at = now + self.settings.OUTBOX_INTERVAL_S
            self._measure()
        if now >= self._remove_at:
            self._remove_at = now + REMOVE_EVERY_S
            self._remove_old()

    def _publish_due(self) -> None:
        """Publish events whose leases have ended, until there are none, fresh ones come, or the interval is over."""
        while True:
            with self.database.autocommit() as connection:
                events = lease_batch(connection, self._batch, self.settings.OUTBOX_LEASE_S)
            self._database_outage.end()
            self._mark_published([event for event in events if event.type in self.ignored])
            if to_send := [event for event in events if event.type not in self.ignored]:
                self._send(to_send)
                self._wait_for_confirms()
            if not events or self._outage.is_on:
                return
            if self._fresh or time.monotonic() >= self._poll_at:
                self._poll_at = 0.0  # go on in the next round
                return

    def _send(self, events: Sequence[OutgoingEvent]) -> None:
        """Send events; `_wait_for_confirms` asks later whether they have arrived."""
        self._in_flight += events
        try:
            self.transport.send(events)
        except Unavailable as error:
            sent, self._in_flight = self._in_flight, []
            self._send_alone_or_release(sent, error)

    def _wait_for_confirms(self) -> None:
        """Wait for the confirms; mark the events that have arrived, and release the others.

        This need not follow each `_send`: events that a crash leaves unmarked are published again, and their handlers
        find them done.
        """
        published, self._taken = self._taken, []
        self._mark_published(published)
        sent, self._in_flight = self._in_flight, []
        if not sent:
            return
        try:
            taken = self.transport.wait_for_confirms()
        except Unavailable as error:
            self._send_alone_or_release(sent, error)
            return
        self._outage.end()
        self._batch = min(2 * self._batch, self.settings.OUTBOX_BATCH)
        self._mark_published([event for event, is_taken in zip(sent, taken, strict=True) if is_taken])
        self._release_refused([event for event, is_taken in zip(sent, taken, strict=True) if not is_taken])

    def _send_alone_or_release(self, events: list[OutgoingEvent], error: Unavailable) -> None:
        """Deal with events that may be lost: if one is refused find out which, otherwise wait for the receiver."""
        if isinstance(error, Refused):
            self._send_alone(events)
        else:
            self._release_in_outage(events, error)

    def _send_alone(self, events: list[OutgoingEvent]) -> None:
        """Publish each event by itself, so that one that is refused does not hold up the others."""
        published: list[OutgoingEvent] = []
        refused: list[OutgoingEvent] = []
        for number, event in enumerate(events):
            try:
                [is_taken] = self.transport.publish([event])
            except Refused:
                is_taken = False
            except Unavailable as error:
                self._release_in_outage(events[number:], error)
                break
            (published if is_taken else refused).append(event)
        self._mark_published(published)
        self._release_refused(refused)

    def _mark_published(self, events: list[OutgoingEvent]) -> None:
        """Mark events that are confirmed. They stay unmarked if the outbox was handed over to another transport."""
        if events:
            with self.database.autocommit() as connection:
                is_ours = mark_published(connection, [event.event_id for event in events], self.transport.name)
            if not is_ours and self._may_log():
                log.warning("the outbox was handed over: what is published by %s is not marked", self.transport.name)
            self.metrics.events_published.labels(self.service).inc(len(events))

    def _release_refused(self, events: list[OutgoingEvent]) -> None:
        """Release events that nobody takes, or that are refused; each waits longer the older it is."""
        if not events:
            return
        self._release(events, self.settings.OUTBOX_LEASE_S)
        if self._may_log():
            log.warning(
                "%d events wait in the outbox: %s does not take them: %s",
                len(events),
                self.transport.receiver,
                ", ".join(sorted({event.type[:50] for event in events})),
            )

    def _may_log(self) -> bool:
        """Return True once in LOG_AGAIN_S."""
        may = time.monotonic() >= self._log_at
        if may:
            self._log_at = time.monotonic() + LOG_AGAIN_S
        return may

    def _release_in_outage(self, events: list[OutgoingEvent], error: Unavailable) -> None:
        """Release events while the receiver is away: many at once; a single one, which was a probe, after a pause."""
        self._outage.begin(str(error))
        self._batch = 1
        self._release(events, 0 if len(events) > 1 else PROBE_PAUSE * self.settings.OUTBOX_INTERVAL_S)

    def _release(self, events: list[OutgoingEvent], longest_pause_s: float) -> None:
        """End our leases on events, so that any relay publishes them."""
        with self.database.autocommit() as connection:
            release(connection, [event.event_id for event in events], longest_pause_s)

    def _remove_old(self) -> None:
        """Remove old events, looking at a bounded number of rows; the next call goes on where this one stops."""
        keep_s = self.settings.OUTBOX_KEEP_S
        for _ in range(REMOVE_BATCHES):
            with self.database.autocommit() as connection:
                _, self._scanned_to = remove_old(connection, REMOVE_BATCH, keep_s, self._scanned_to)
            if not self._scanned_to:
                return

    def _measure(self) -> None:
        with self.database.autocommit() as connection:
            waiting, lag_s = count_waiting(connection)
        self.metrics.outbox_waiting.labels(self.service).set(waiting)
        self.metrics.outbox_lag.labels(self.service).set(lag_s)
