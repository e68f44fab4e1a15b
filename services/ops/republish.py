"""Events out of the outboxes once more: they are marked as not published, and the relay of the running service does it.

Their handlers find done what was done, so this is always safe; it is of use where a receiver has forgotten.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from services.kit.db.connecting import engine_of
from services.kit.outbox.handover import AGAIN
from services.kit.outbox.table import OutboxRow
from services.shop import services_with

BATCH = 1000

#: The next of the chosen events. Each is looked at once, whatever becomes of it. What is locked is being published.
IN_WINDOW = text(f"""
    with chosen as (
        select id from outbox where id > :after and published_at is not null
            and created_at >= :since and created_at < :until and (cast(:type as text) is null or type = :type)
        order by id limit {BATCH} for update)
    update outbox set {AGAIN} where id in (select id from chosen) returning id""")
OF_ROWS = text(f"""
    update outbox set {AGAIN} where published_at is not null and type = any(:types) and body->>:key = any(:ids)
    returning body->>:key""")
STILL_THERE = text("select distinct body->>:key from outbox where type = any(:types) and body->>:key = any(:ids)")
OLDEST = text("select min(created_at) from outbox")


def window(
    urls: dict[str, str], since: datetime, until: datetime, type_: str | None
) -> Iterator[tuple[str, int, datetime | None]]:
    """Have the events created in [`since`, `until`) published again; only those of one type, if it is given.

    Yield for each service how many these are, and from when the oldest event is that its outbox still holds.
    """
    for service in services_with(OutboxRow):
        with engine_of(urls[service]) as engine:
            yield service, _publish_again(engine, since=since, until=until, type=type_), _oldest(engine)


def of_rows(connection: Connection, types: Sequence[str], key: str, ids: Sequence[UUID]) -> set[UUID]:
    """Have the events about some rows published again; return those rows that the outbox still has an event of.

    `key` is the name of the row's id in the events.
    """
    about: dict[str, Any] = {"types": list(types), "key": key, "ids": [str(one) for one in ids]}
    connection.execute(OF_ROWS, about)
    return {UUID(one) for one in connection.execute(STILL_THERE, about).scalars()}


def _publish_again(engine: Engine, **chosen: Any) -> int:
    count, after = 0, 0
    with engine.connect() as connection:
        while ids := connection.execute(IN_WINDOW, {"after": after, **chosen}).scalars().all():
            connection.commit()
            count, after = count + len(ids), max(ids)
    return count


def _oldest(engine: Engine) -> datetime | None:
    with engine.connect() as connection:
        oldest: datetime | None = connection.execute(OLDEST).scalar_one()
    return oldest
