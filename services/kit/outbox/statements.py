"""The statements of the relay on the outbox table.

A relay leases the rows that are due: `claimed_until` is when the lease ends. While a lease holds, no other relay
publishes the event. What a crash leaves under a lease is due again when the lease has ended.
"""

from datetime import timedelta

from sqlalchemy import Connection

from services.kit.db.statements import PreparedStatement
from services.kit.outbox.table import OutgoingEvent

LEASE = PreparedStatement(
    "lease_events",
    """
    update outbox set claimed_until = now() + {lease}
    where id in (select id from outbox where published_at is null and claimed_until < now()
                 order by claimed_until, id limit {batch} for update skip locked)
    returning id, cast(event_id as text) as event_id, type, cast(body as text) as body, traceparent""",
    batch="integer",
    lease="interval",
)

#: A relay marks events only while the outbox is its transport's. The share lock makes a hand-over wait until this has
#: ended, and the other way round, so that no mark is left from before a hand-over.
MARK_PUBLISHED = PreparedStatement(
    "mark_events_published",
    """
    with ours as (select from outbox_transport where is_only and name = {transport} for share)
    update outbox set published_at = now() where event_id = any({event_ids}) and exists (select from ours)""",
    event_ids="uuid[]",
    transport="text",
)

#: A pause as long as the event is old doubles with each attempt, and needs no count of the attempts.
RELEASE = PreparedStatement(
    "release_events",
    """
    update outbox
    set claimed_until = now() + least(greatest(now() - created_at, interval '1 second'), {longest_pause})
    where event_id = any({event_ids})""",
    event_ids="uuid[]",
    longest_pause="interval",
)

COUNT_WAITING = PreparedStatement(
    "count_waiting_events",
    """
    select count(*) as waiting, coalesce(extract(epoch from now() - min(created_at)), 0) as age_s
    from outbox where published_at is null""",
)

#: It reads a bounded number of rows, so its cost depends neither on the size of the table nor on how many rows wait.
REMOVE_OLD = PreparedStatement(
    "remove_old_events",
    """
    with looked_at as (select id, created_at, published_at from outbox where id > {after} order by id limit {batch}),
    removed as (
        delete from outbox where id in (select id from looked_at where published_at < now() - {keep}) returning id
    )
    select (select count(*) from removed) as removed,
           case when count(*) = {batch} and max(created_at) < now() - {keep} then max(id) else 0 end as looked_to
    from looked_at""",
    batch="integer",
    keep="interval",
    after="bigint",
)


def lease_batch(connection: Connection, batch: int, lease_s: float) -> list[OutgoingEvent]:
    """Lease up to `batch` events that are due, those due for longest first; leave out rows that somebody has locked."""
    rows = sorted(LEASE.run(connection, batch=batch, lease=timedelta(seconds=lease_s)), key=lambda row: row.id)
    return [OutgoingEvent(row.event_id, row.type, row.body, row.traceparent) for row in rows]


def mark_published(connection: Connection, event_ids: list[str], transport: str) -> bool:
    """Mark events that have arrived by `transport`; return False if the outbox was handed over to another one."""
    return MARK_PUBLISHED.run(connection, event_ids=event_ids, transport=transport).rowcount > 0


def release(connection: Connection, event_ids: list[str], longest_pause_s: float) -> None:
    """End the leases on events after a pause as long as the event's age, at least 1 s and at most `longest_pause_s`.

    With `longest_pause_s` 0 there is no pause.
    """
    RELEASE.run(connection, event_ids=event_ids, longest_pause=timedelta(seconds=longest_pause_s))


def count_waiting(connection: Connection) -> tuple[int, float]:
    """Return how many events wait, and the age of the oldest in seconds."""
    row = COUNT_WAITING.run(connection).one()
    return int(row.waiting), float(row.age_s)


def remove_old(connection: Connection, batch: int, keep_s: float, after: int) -> tuple[int, int]:
    """Look at `batch` events with ids above `after`; remove those published more than `keep_s` seconds ago.

    Return how many were removed, and the id to go on after, which is 0 when no later event can be old enough.
    """
    row = REMOVE_OLD.run(connection, batch=batch, keep=timedelta(seconds=keep_s), after=after).one()
    return int(row.removed), int(row.looked_to)
