"""One stuck order: it is made due, so that the recovery of the running service takes it at once, and watched."""

import time
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine, Row, text

from services.kit.db.connecting import engine_of

PAUSE_S = 0.2

DUE = text("update orders set retry_at = now() where id = any(:ids) and status = 'pending'")
SEEN = text("select id, status, reason, attempts, trouble from orders where id = :id")


def make_due(engine: Engine, ids: Sequence[UUID]) -> None:
    """Have the recovery of the running service take these orders at once, those of them that are pending."""
    with engine.connect() as connection:
        connection.execute(DUE, {"ids": list(ids)})


def settle(url: str, order_id: UUID, wait_s: float) -> tuple[bool, str]:
    """Have an order settled, and wait for its end; return whether it has ended, and how it is now, in one line."""
    deadline = time.monotonic() + wait_s
    with engine_of(url, isolation_level="AUTOCOMMIT") as engine:
        make_due(engine, [order_id])
        while (order := _seen(engine, order_id)) and order.status == "pending" and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
    if order is None:
        return False, f"order {order_id}: there is no such order"
    if order.status == "pending":
        return False, f"order {order_id}: still pending after {order.attempts} attempts: {order.trouble or 'no answer'}"
    return True, f"order {order_id}: {order.status}{f', {order.reason}' if order.reason else ''}"


def _seen(engine: Engine, order_id: UUID) -> Row[tuple[UUID, str, str | None, int, str | None]] | None:
    with engine.connect() as connection:
        return connection.execute(SEEN, {"id": order_id}).one_or_none()
