"""Recovery: what a crash or an outage left pending is finished without being asked for again.

Any number of replicas may recover at once. Each leases the rows that are due, by moving their `retry_at`, and recovers
them outside the transaction. A death leaves the rows to whoever comes when the lease is over.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from nameko.extensions import DependencyProvider
from pydantic import BaseModel, ValidationError
from sqlalchemy import Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.kit.db.database import Database
from services.kit.db.statements import PreparedStatement
from services.kit.errors import OUTCOME_UNKNOWN, CallFailed, Unavailable
from services.kit.event import Event

log = logging.getLogger(__name__)

TROUBLE_LENGTH = 200


class NotYet(Unavailable):
    """Nothing was done, and nobody is at fault: the row waits for its next turn.

    It is an Unavailable only so that the caller answers 202 and recovery asks again.
    """


class Trouble(NamedTuple):
    """What went wrong with a row."""

    id: UUID
    trouble: str


class Due(NamedTuple):
    """A pending row whose turn it is, as a view, and the trace of its request."""

    row: Any
    traceparent: str | None


class PendingRow:
    """The columns of a row that may be pending, for a service's models to inherit.

    `retry_at` is when recovery may try again, `attempts` how often it has, and `trouble` what went wrong with the last
    attempt; an outage is no trouble.
    """

    status: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retry_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    trouble: Mapped[str | None]


class TraceRow:
    """The trace of a request, with which the recovery of its row goes on, for a service's models to inherit.

    `id` is that of the pending row. It is no column of that row because of version 0.1.0, which runs beside this one
    during an upgrade: its statements return all columns of a row, and fail when there is one more.
    """

    __tablename__ = "traces"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    traceparent: Mapped[str]


class Recovery(DependencyProvider):
    """Finishes the pending rows of one table: `recovery = Recovery(models.Order, OrderView, ended=("paid", ...))`.

    `view` is what a row is read as; `ended` are the statuses of rows that are no longer pending.
    """

    def __init__(self, model: Any, view: type[BaseModel], ended: Sequence[str]) -> None:
        table, columns = model.__tablename__, ", ".join(view.model_fields)
        # not `= 'pending'`, which would tempt the planner to read all that are pending
        is_pending = f"{table}.status not in ({', '.join(repr(str(status)) for status in ended)})"
        self.table = table
        self.view = view
        # What was leased together comes back at different times, so that a row that makes its round fail is with
        # different rows next time.
        self.lease = PreparedStatement(
            f"lease_{table}",
            f"""
            update {table} set retry_at = now() + {{pause}} * (1 + random() / 4), attempts = attempts + 1
            where id in (select id from {table} where status = 'pending' and retry_at < now()
                         order by retry_at limit {{most}} for update skip locked)
            returning {columns}, (select traceparent from traces where traces.id = {table}.id) as traceparent""",
            most="integer",
            pause="interval",
        )
        self.note = PreparedStatement(
            f"note_trouble_of_{table}",
            f"""
            update {table} set trouble = given.trouble, retry_at = now() + least(attempts, 20) * {{pause}}
            from {{troubles}} where {table}.id = given.id and {is_pending}""",
            troubles=Trouble,
            pause="interval",
        )
        self.count = PreparedStatement(
            f"count_pending_{table}",
            f"""
            select count(*) as pending, count(*) filter (where created_at < now() - {{stuck_after}}) as stuck
            from {table} where status = 'pending'""",
            stuck_after="interval",
        )
        self._stuck_before = 0

    def get_dependency(self, worker_ctx: Any) -> "Recovery":
        return self

    def setup(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]

    def run(self, recover: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        """Lease rows and recover them while some are due, for RECOVERY_INTERVAL_S at a time; then count what is left.

        `recover` returns a result or an exception for each row. An exception that is no outage is the row's own
        trouble: it is noted with the row, which waits longer each time, and harms no other. An outage ends the run.
        """
        settings = self.container.settings
        until = time.monotonic() + settings.RECOVERY_INTERVAL_S
        while due := self.lease_due():
            rows = [one.row for one in due]
            contexts = [(one.row.id, one.traceparent) for one in due]
            with self.container.tracer.batch(f"recover {self.table}", contexts):
                results = recover(rows)
                self._note(rows, results)
            if len(rows) < settings.RECOVERY_BATCH or any(map(is_outage, results)) or time.monotonic() > until:
                break
        self._report()

    def lease_due(self) -> Sequence[Due]:
        """Lease up to RECOVERY_BATCH rows that are due, and that no other replica has."""
        settings = self.container.settings
        with self.database.autocommit() as connection:
            due = self.lease.run(
                connection, most=settings.RECOVERY_BATCH, pause=timedelta(seconds=settings.RECOVERY_AFTER_S)
            )
            return [Due(self.view.model_validate(row), row.traceparent) for row in due]

    def _note(self, rows: Sequence[Any], results: Sequence[Any]) -> None:
        troubles = [
            Trouble(row.id, f"{type(result).__name__}: {result}"[:TROUBLE_LENGTH])
            for row, result in zip(rows, results, strict=True)
            if is_trouble(result)
        ]
        if troubles:
            log.error("%d of %d could not be recovered; %s", len(troubles), len(rows), troubles[0].trouble)
            self.note_troubles(troubles)

    def note_troubles(self, troubles: Sequence[Trouble]) -> None:
        """Write down what went wrong with pending rows, each of which waits longer than the last time."""
        pause = timedelta(seconds=self.container.settings.RECOVERY_AFTER_S)
        with self.database.autocommit() as connection:
            self.note.run(connection, troubles=troubles, pause=pause)

    def _report(self) -> None:
        """Show how many rows are pending. What has been pending for longer than STUCK_AFTER_S is an alarm."""
        service, metrics = self.container.service_name, self.container.metrics
        after_s = self.container.settings.STUCK_AFTER_S
        with self.database.autocommit() as connection:
            row = self.count.run(connection, stuck_after=timedelta(seconds=after_s)).one()
        metrics.pending.labels(service).set(row.pending)
        metrics.stuck.labels(service).set(row.stuck)
        if row.stuck == 0 and self._stuck_before:
            log.info("%s: none is pending for more than %g s any more", service, after_s)
        elif row.stuck != self._stuck_before:
            log.error("%s: %d pending for more than %g s; see their `trouble`", service, row.stuck, after_s)
        self._stuck_before = row.stuck


def one_by_one(rows: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    """Do `work` with one row after the other; return a result or an exception for each. An outage ends it."""
    results: list[Any] = [NotYet("it was not its turn")] * len(rows)
    for index, row in enumerate(rows):
        try:
            results[index] = work(row)
        except Exception as error:
            results[index] = error
            if is_outage(error):
                break  # the others wait as well
    return results


def events_of(rows: Sequence[Any], event_of: Callable[[Any], Event]) -> tuple[dict[UUID, Event], dict[UUID, Exception]]:
    """Return the events that tell of rows, and the errors of the rows that none can tell of; both by their ids."""
    events: dict[UUID, Event] = {}
    troubles: dict[UUID, Exception] = {}
    for row in rows:
        try:
            events[row.id] = event_of(row)
        except ValidationError as error:
            troubles[row.id] = error
    return events, troubles


def is_outage(result: Any) -> bool:
    """Return whether a result is an unknown outcome, which every other row may meet as well."""
    return isinstance(result, OUTCOME_UNKNOWN) and not isinstance(result, NotYet | CallFailed)


def is_trouble(result: Any) -> bool:
    """Return whether a result is an error of this row that somebody should look at."""
    return isinstance(result, Exception) and not isinstance(result, NotYet) and not is_outage(result)
