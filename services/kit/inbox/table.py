"""The inbox table and the statements on it.

A row without a `next_attempt_at` is a dead letter. Otherwise it is due at that time, and leased by moving the time on.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Identity, Index, Integer, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from services.kit.db.statements import PreparedStatement


class InboxRow:
    """The columns of an inbox, for a service's models to inherit."""

    __tablename__ = "inbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    handler: Mapped[str]
    key: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    content_type: Mapped[str | None]
    content_encoding: Mapped[str | None]
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    attempts: Mapped[int] = mapped_column(Integer)
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


class FailedMessage(NamedTuple):
    """A message as it came from the broker, and why it failed. `key` is the id of its event, or a hash of its bytes."""

    key: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    attempts: int
    reason: str


class DueMessage(NamedTuple):
    """A row whose next attempt is due, leased by this process."""

    id: int
    handler: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    attempts: int


#: A second delivery of an event that is in the table changes nothing: its attempts go on.
KEEP = PreparedStatement(
    "keep_event",
    """
    insert into inbox (handler, key, body, content_type, content_encoding, headers, attempts, reason, next_attempt_at)
    values ({handler}, {key}, {body}, {content_type}, {content_encoding}, {headers}, {attempts}, {reason},
            now() + {pause})
    on conflict (handler, key) do nothing
    returning id""",
    handler="text",
    key="text",
    body="bytea",
    content_type="text",
    content_encoding="text",
    headers="jsonb",
    attempts="integer",
    reason="text",
    pause="interval",
)

LEASE = PreparedStatement(
    "lease_failed_event",
    """
    update inbox set next_attempt_at = now() + {lease} where id = (
        select id from inbox where next_attempt_at <= now()
        order by next_attempt_at limit 1 for update skip locked)
    returning id, handler, body, content_type, content_encoding, headers, attempts""",
    lease="interval",
)

REMOVE = PreparedStatement("remove_failed_event", "delete from inbox where id = {id}", id="bigint")

#: It counts an attempt once, even if the lease has ended and another replica has made the same attempt.
FAIL = PreparedStatement(
    "fail_event_again",
    """
    update inbox
    set attempts = {attempts}, reason = {reason}, next_attempt_at = now() + {pause}, failed_at = now()
    where id = {id} and attempts = {attempts_before} and next_attempt_at is not null""",
    id="bigint",
    attempts_before="integer",
    attempts="integer",
    reason="text",
    pause="interval",
)

COUNT = PreparedStatement(
    "count_failed_events",
    """
    select (select count(*) from inbox where next_attempt_at is not null) as waiting,
           (select count(*) from inbox where next_attempt_at is null) as dead""",
)


def keep(connection: Connection, handler: str, event: FailedMessage, pause_s: float | None) -> bool:
    """Insert an event that failed, due after `pause_s`, or as a dead letter for None; return False if it was there."""
    kept = KEEP.run(
        connection,
        handler=handler,
        key=clean(event.key),
        body=event.body,
        content_type=clean(event.content_type),
        content_encoding=clean(event.content_encoding),
        headers=as_json(event.headers),
        attempts=event.attempts,
        reason=clean(event.reason),
        pause=_interval(pause_s),
    )
    return kept.one_or_none() is not None


def lease(connection: Connection, lease_s: float) -> DueMessage | None:
    """Lease the event that is due for longest, leaving out rows that somebody has locked; None if there is none."""
    row = LEASE.run(connection, lease=_interval(lease_s)).one_or_none()
    return row and DueMessage(
        row.id, row.handler, bytes(row.body), row.content_type, row.content_encoding, row.headers, row.attempts
    )


def remove(connection: Connection, event: DueMessage) -> None:
    """Remove an event that was handled."""
    REMOVE.run(connection, id=event.id)


def fail(connection: Connection, event: DueMessage, attempts: int, reason: str, pause_s: float | None) -> None:
    """Note that another attempt failed, unless another replica has; `pause_s` is that of `keep`."""
    FAIL.run(
        connection,
        id=event.id,
        attempts_before=event.attempts,
        attempts=attempts,
        reason=clean(reason),
        pause=_interval(pause_s),
    )


def count(connection: Connection) -> tuple[int, int]:
    """Return how many events wait for an attempt, and how many are dead letters."""
    row = COUNT.run(connection).one()
    return int(row.waiting), int(row.dead)


def clean(value: str | None) -> str | None:
    """Return `value` as PostgreSQL can store it: without NUL and lone surrogates."""
    return value and value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def as_json(headers: Mapping[str, Any]) -> str:
    """Return the headers of a message as JSON that PostgreSQL can store: no NaN, NUL or lone surrogates."""
    plain = json.loads(json.dumps(dict(headers), default=str), parse_constant=str)
    return str(clean(json.dumps(plain, ensure_ascii=False).replace("\\u0000", "\ufffd")))


def _interval(pause_s: float | None) -> timedelta | None:
    return None if pause_s is None else timedelta(seconds=pause_s)
