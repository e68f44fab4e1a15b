"""What is pending: the orders and users whose outcome is not known yet, with what went wrong, oldest first."""

from collections.abc import Iterator

from sqlalchemy import text

from services.kit.db.connecting import engine_of

PENDING = """
    select id, created_at, attempts, retry_at, trouble, {about} as about from {table}
    where status = 'pending' and created_at <= now() - :older_than * interval '1 second' order by created_at, id"""
ABOUT = {"orders": "'order of ' || user_id || ' for ' || price", "users": "'user'"}


def listed(urls: dict[str, str], older_than_s: float) -> Iterator[str]:
    """Return a line for each row that has been pending for longer than `older_than_s` seconds."""
    for table, about in ABOUT.items():
        with engine_of(urls[table]) as engine, engine.connect() as connection:
            query = text(PENDING.format(table=table, about=about))
            for row in connection.execution_options(yield_per=1000).execute(query, {"older_than": older_than_s}):
                yield (
                    f"{row.id}  {row.created_at:%Y-%m-%dT%H:%M:%SZ}  {row.about}  {row.attempts} attempts, "
                    f"the next at {row.retry_at:%H:%M:%S}  {row.trouble or 'waits'}"
                )
