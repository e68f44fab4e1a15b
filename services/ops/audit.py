"""The audit: invariants 1 to 4 over the data of all services.

It reads orders in batches by an index, with their payments and letters, and everything else in one pass each, so that
millions of orders need no more memory than a few. In a running system what looks wrong may only be on its way between
two services. A suspect is therefore checked again until it is clean or its time is up; what is still wrong then is a
violation.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from services.kit.db.connecting import engine_of
from services.ops.violations import Kind, Violation
from services.shop import SERVICES

BATCH = 5_000
PAUSE_S = 0.5

IN_WINDOW = "created_at >= :since and created_at < :until"

#: The balance of each account, and the sum of its operations.
ACCOUNTS = """
    select a.user_id, a.balance,
           coalesce(sum(case when o.credit = a.user_id::text then o.amount else -o.amount end), 0)
    from accounts a left join operations o on o.user_id = a.user_id and o.outcome = 'accepted'
    where cast(:only as uuid) is null or a.user_id = :only
    group by a.user_id, a.balance"""
UNDECIDED = f"select id from operations where outcome is null and {IN_WINDOW}"
ORDERS = f"""
    select id, user_id, price, status, reason, created_at from orders
    where {IN_WINDOW} and (created_at, id) > (:moment, cast(:id as uuid)) order by created_at, id limit {BATCH}"""
ORDERS_BY_ID = "select id, user_id, price, status, reason, created_at from orders where id = any(:ids)"
PAYMENTS_BY_ID = """
    select id, user_id, amount from operations where id = any(:ids) and kind = 'payment' and outcome = 'accepted'"""
LETTERS_BY_ORDER = "select order_id, kind, user_id from letters where order_id = any(:ids)"
PAYMENTS = f"select id from operations where kind = 'payment' and outcome = 'accepted' and {IN_WINDOW}"
LETTERS = f"select order_id from letters where order_id is not null and {IN_WINDOW}"
REUSED_KEYS = """
    select idempotency_key from {table} where idempotency_key is not null
    group by idempotency_key{scope} having count(*) > 1"""
USERS_BY_ID = "select id from users where id = any(:ids)"
REPEATED_REQUESTS = f"""
    select request_id, count(*) from orders where request_id is not null and {IN_WINDOW}
    group by request_id having count(*) > 1"""
REPEATED = f"""
    select body->>'order_id', count(*) from outbox where type in ('order_paid', 'order_rejected') and {IN_WINDOW}
    group by body->>'order_id' having count(*) > 1"""
#: Service, table, and whose a key is.
KEYED = (
    ("users", "users", ""),
    ("billing", "operations", ", user_id"),
    ("orders", "orders", ", user_id"),
    ("notifications", "letters", ", user_id"),
)

LETTER_FOR = {"paid": "order_paid", "insufficient_funds": "order_rejected"}


@dataclass
class Report:
    """What the audit counted, and what breaks an invariant."""

    counted: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Return the report as lines: a table, and a line for each violation."""
        width = max((len(name) for name in self.counted), default=0)
        for name, count in sorted(self.counted.items()):
            yield f"{name:<{width}}  {count:>12,}"
        yield ""
        yield from (f"VIOLATION  {one}" for one in self.violations)
        count = len(self.violations)
        yield f"{count} {'violation' if count == 1 else 'violations'}" if count else "clean: no violations"


class Audit:
    """One audit of the databases at `urls`, for what was created in [`since`, `until`)."""

    def __init__(self, urls: dict[str, str], since: datetime, until: datetime, patience_s: float) -> None:
        self.urls = urls
        self.window = {"since": since, "until": until}
        self.patience_s = patience_s
        self.report = Report()
        self.databases: dict[str, Engine] = {}

    def run(self) -> Report:
        """Check everything, and return the report. Raises OperationalError when a database does not answer."""
        with ExitStack() as stack:
            for service in SERVICES:
                self.databases[service] = stack.enter_context(engine_of(self.urls[service]))
            self._accounts()
            self._orders()
            self._strays()
            self._requests()
            self._events()
            self._keys()
        return self.report

    def _accounts(self) -> None:
        """Check invariant 1: each balance is the sum of the account's operations, and not below zero."""
        suspects = []
        for user_id, balance, total in self._stream("billing", ACCOUNTS, only=None):
            self.report.counted["accounts"] += 1
            self.report.counted["money in accounts"] += balance
            if balance != total or balance < 0:
                suspects.append(user_id)
        for user_id in suspects:
            [(_, balance, total)] = self._rows("billing", ACCOUNTS, only=user_id)
            if balance != total or balance < 0:
                self._violation(Kind.BALANCE, user_id, balance=balance, total=total)
        for (id_,) in self._stream("billing", UNDECIDED, **self.window):
            self._violation(Kind.UNDECIDED, id_)

    def _orders(self) -> None:
        """Check invariants 2 and 3: each order agrees with its payment and its letters."""
        last = {"moment": self.window["since"], "id": "00000000-0000-0000-0000-000000000000"}
        while orders := self._rows("orders", ORDERS, **self.window, **last):
            for order in orders:
                self.report.counted[f"orders {order.status}"] += 1
            last = {"moment": orders[-1].created_at, "id": orders[-1].id}
            self._again(
                lambda ids: self._compare(self._rows("orders", ORDERS_BY_ID, ids=ids)), list(self._compare(orders))
            )

    def _compare(self, orders: list[Any]) -> Iterator[Violation]:
        """Return what is wrong with those of the orders that do not agree with billing and notifications."""
        ids = [order.id for order in orders]
        payments = {row.id: row for row in self._rows("billing", PAYMENTS_BY_ID, ids=ids)}
        letters: dict[Any, list[str]] = {}
        for row in self._rows("notifications", LETTERS_BY_ORDER, ids=ids):
            letters.setdefault(row.order_id, []).append(row.kind)
        refused = [order.user_id for order in orders if order.reason == "account_not_found"]
        users = {row.id for row in self._rows("users", USERS_BY_ID, ids=refused)} if refused else set()
        for order in orders:
            if order.reason == "account_not_found" and order.user_id in users:
                yield Violation.of(Kind.USER_EXISTS, order.id, user_id=order.user_id)
            elif wrong := self._wrong(order, payments.get(order.id), letters.get(order.id, [])):
                yield wrong

    def _wrong(self, order: Any, payment: Any, letters: list[str]) -> Violation | None:
        """Return in what an order does not agree with its payment and its letters; None if it does."""
        expected = LETTER_FOR.get(order.reason or order.status)
        is_own = payment is not None and (payment.user_id, payment.amount) == (order.user_id, order.price)
        if order.status == "pending":
            return Violation.of(Kind.PENDING, order.id, created=f"{order.created_at:%Y-%m-%d %H:%M:%S}")
        if order.reason == "operation_mismatch":  # for good: its id belongs to another operation
            payment = payment if is_own else None
        if (order.status == "paid") != (payment is not None):
            return Violation.of(Kind.NOT_PAID if payment else Kind.NO_PAYMENT, order.id, status=order.status)
        if payment is not None and not is_own:
            return Violation.of(Kind.OTHER_PAYMENT, order.id)
        if letters != ([expected] if expected else []):
            kind = Kind.OTHER_LETTERS if letters else Kind.NO_LETTER
            return Violation.of(kind, order.id, status=order.status, letters=letters)
        return None

    def _strays(self) -> None:
        """Check invariants 2 and 3 from the other side: every payment and letter has its order."""
        for service, query, what, kind in (
            ("billing", PAYMENTS, "payments", Kind.PAYMENT_ALONE),
            ("notifications", LETTERS, "letters", Kind.LETTER_ALONE),
        ):
            batch: list[Any] = []
            for (order_id,) in self._stream(service, query, **self.window):
                self.report.counted[what] += 1
                batch.append(order_id)
                if len(batch) == BATCH:
                    self._without_order(batch, kind)
                    batch = []
            self._without_order(batch, kind)

    def _without_order(self, ids: list[Any], kind: Kind) -> None:
        known = {order.id for order in self._rows("orders", ORDERS_BY_ID, ids=ids)}
        for order_id in set(ids) - known:
            self._violation(kind, order_id)

    def _requests(self) -> None:
        """Check invariant 1 before money moves: no request of a client has made two orders, with or without a key."""
        for request_id, count in self._stream("orders", REPEATED_REQUESTS, **self.window):
            self._violation(Kind.TWO_ORDERS, request_id, count=count)

    def _events(self) -> None:
        """Check invariant 3 at its source: no order has two events that say how it ended."""
        for order_id, count in self._stream("orders", REPEATED, **self.window):
            self._violation(Kind.TWO_EVENTS, order_id, count=count)

    def _keys(self) -> None:
        """Check invariant 4: no Idempotency-Key has had two effects."""
        for service, table, scope in KEYED:
            for (key,) in self._stream(service, REUSED_KEYS.format(table=table, scope=scope)):
                self._violation(Kind.TWO_EFFECTS, key, table=table)

    def _again(self, look: Callable[[list[Any]], Iterator[Violation]], suspects: list[Violation]) -> None:
        """Check suspects again until they are clean or time is up; then report them."""
        deadline = time.monotonic() + self.patience_s
        while suspects and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
            suspects = list(look([one.id for one in suspects]))
        self.report.violations += suspects

    def _violation(self, kind: Kind, id_: Any, **values: Any) -> None:
        self.report.violations.append(Violation.of(kind, id_, **values))

    def _rows(self, service: str, query: str, **values: Any) -> list[Any]:
        with self.databases[service].connect() as connection:
            return list(connection.execute(text(query), values))

    def _stream(self, service: str, query: str, **values: Any) -> Iterator[Any]:
        """Return the rows of a query one by one, without holding them all."""
        with self.databases[service].connect() as connection:
            yield from connection.execution_options(yield_per=BATCH).execute(text(query), values)
