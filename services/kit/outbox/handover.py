"""The hand-over of an outbox from one transport to another.

An event that is marked as published may still wait in a queue of the broker. Who publishes by another transport from
now on cannot know, so it publishes every event again that the outbox still holds; the handlers find done what was done.

The database names the transport. A relay marks events only while that is its own: what a process of the old transport
still publishes stays unmarked, and is published again by the new one. Both happen in one transaction, and the lock on
the row of `outbox_transport` orders it before or after each mark.

What a crash leaves: before the commit, nothing; after it, all of it.
"""

from sqlalchemy import text

from services.kit.db.connecting import engine_of

NAME = text("update outbox_transport set name = :transport where name <> :transport")
AGAIN = "published_at = null, claimed_until = '-infinity'"
PUBLISH_AGAIN = text(f"update outbox set {AGAIN} where published_at is not null")


def hand_over(url: str, transport: str) -> int:
    """Have the outbox in the database at `url` published by `transport`; return how many events are due again."""
    with engine_of(url) as engine, engine.begin() as connection:
        was_other = connection.execute(NAME, {"transport": transport}).rowcount
        return connection.execute(PUBLISH_AGAIN).rowcount if was_other else 0


def publish_again(url: str) -> int:
    """Have every event published again that the outbox still holds: its broker has forgotten them."""
    with engine_of(url) as engine, engine.begin() as connection:
        return connection.execute(PUBLISH_AGAIN).rowcount
