"""What the four databases say of an order, read only for the page. A database that does not answer is "away"."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

import eventlet
import psycopg2
from eventlet import Timeout
from psycopg2 import extensions
from psycopg2.extras import RealDictCursor

from services.kit.db.connecting import wait
from services.kit.inbox.table import InboxRow
from services.kit.outbox.table import OutboxRow
from services.shop import services_with

ANSWER_S = 1.0
SILENCE_S = 10.0  # of a database, for the audit
NEWEST = 50
LEDGER = 12

AWAY = "away"
Rows = list[dict[str, Any]]
Answer = Rows | str  # AWAY

ORDERS = """
    select id, user_id, price, status, reason, created_at from orders
    where %(user_id)s::uuid is null or user_id = %(user_id)s::uuid order by created_at desc, id desc limit %(limit)s"""
USERS = """
    select id, name, status, created_at from users order by created_at desc, id desc limit %(limit)s"""
ORDER = """
    select id, user_id, price, status, reason, promised, created_at, retry_at, trouble from orders
    where id = %(order)s::uuid"""
ACCOUNT = """
    select user_id, balance from accounts
    where user_id = coalesce(%(user_id)s::uuid, (select user_id from operations where id = %(order)s::uuid))"""
OPERATIONS = """
    select id, kind, amount, outcome, balance, created_at, id = %(order)s::uuid as is_of_this_order
    from operations
    where user_id = coalesce(%(user_id)s::uuid, (select user_id from operations where id = %(order)s::uuid))
    order by created_at desc limit %(limit)s"""
LETTERS = "select kind, subject, body, created_at from letters where order_id = %(order)s::uuid order by created_at"
OUTBOX = """
    select type, created_at, published_at,
           case when published_at is not null then 'marked as published'
                when claimed_until > now() then 'under a lease: sent, or about to be'
                else 'waiting' end as state
    from outbox where body ->> 'order_id' = %(order)s::text order by id"""
INBOX = """
    select handler, attempts, reason, received_at, next_attempt_at,
           case when next_attempt_at is null then 'dead letter' else 'waiting for its next attempt' end as state
    from inbox where position(convert_to(%(order)s::text, 'UTF8') in body) > 0 order by id"""
AGAIN = """
    update outbox set published_at = null, claimed_until = '-infinity'
    where body ->> 'order_id' = %(order)s::text and published_at is not null returning event_id"""


def wait_in_green_threads() -> None:
    """Let psycopg2 wait in its green thread only, as the services do; else the whole process stands still meanwhile."""
    extensions.set_wait_callback(partial(wait, timeout_s=SILENCE_S))


class State:
    """Reads the databases at `urls`, by the names of their services, each with a deadline of its own.

    See `wait_in_green_threads`.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = {service: url.replace("postgresql+psycopg2://", "postgresql://") for service, url in urls.items()}

    def newest(self, user_id: UUID | None) -> dict[str, Answer]:
        """Return the newest orders, of one user or of all, and the newest users."""
        values = {"user_id": user_id and str(user_id), "limit": NEWEST}
        return self._at_once(
            orders=lambda: self._read("orders", ORDERS, values),
            users=lambda: self._read("users", USERS, values),
        )

    def of(self, order_id: UUID, user_id: UUID | None) -> dict[str, Answer]:
        """Return what each table has about an order. `user_id` is for when the order itself cannot be read."""
        values = {"order": str(order_id), "user_id": user_id and str(user_id), "limit": LEDGER}
        return self._at_once(
            order=lambda: self._read("orders", ORDER, values),
            account=lambda: self._read("billing", ACCOUNT, values),
            ledger=lambda: self._read("billing", OPERATIONS, values),
            outbox=lambda: self._each(OutboxRow, OUTBOX, values),
            inbox=lambda: self._each(InboxRow, INBOX, values),
            letters=lambda: self._read("notifications", LETTERS, values),
        )

    def publish_again(self, order_id: UUID) -> int:
        """Have the events of an order published once more, as after a crash; return how many they are."""
        answer = self._each(OutboxRow, AGAIN, {"order": str(order_id)})
        return 0 if isinstance(answer, str) else len(answer)

    def _each(self, table: type, query: str, values: dict[str, Any]) -> Answer:
        """Return the rows of all services that have such a table, with the name of the service; AWAY if all are."""
        answers = {service: self._read(service, query, values) for service in services_with(table)}
        there = {service: rows for service, rows in answers.items() if not isinstance(rows, str)}
        return [{"service": service, **row} for service, rows in there.items() for row in rows] if there else AWAY

    def _read(self, service: str, query: str, values: dict[str, Any]) -> Answer:
        try:
            with Timeout(ANSWER_S, psycopg2.OperationalError("no answer")):
                connection = psycopg2.connect(self.urls[service], connect_timeout=2, application_name="page")
                try:
                    connection.autocommit = True
                    with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                        cursor.execute(query, values)
                        return [dict(row) for row in cursor]
                finally:
                    connection.close()
        except psycopg2.Error:
            return AWAY

    def _at_once(self, **reads: Callable[[], Answer]) -> dict[str, Answer]:
        threads = {name: eventlet.spawn(read) for name, read in reads.items()}
        return {name: thread.wait() for name, thread in threads.items()}
