"""One stuck order: it is made due, so that the recovery of the running service takes it at once, and watched."""

import time
from uuid import UUID

from sqlalchemy import Engine, Row, create_engine, text

from services.kit.db.connecting import with_driver

PAUSE_S = 0.2

DUE = text("update orders set retry_at = now() where id = :id and status = 'pending'")
SEEN = text("select id, status, reason, attempts, trouble from orders where id = :id")


def settle(url: str, order_id: UUID, wait_s: float) -> tuple[bool, str]:
    """Have an order settled, and wait for its end; return whether it has ended, and how it is now, in one line."""
    engine = create_engine(with_driver(url), isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10})
    deadline = time.monotonic() + wait_s
    try:
        with engine.connect() as connection:
            connection.execute(DUE, {"id": order_id})
        while (order := _seen(engine, order_id)) and order.status == "pending" and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
    finally:
        engine.dispose()
    if order is None:
        return False, f"order {order_id}: there is no such order"
    if order.status == "pending":
        return False, f"order {order_id}: still pending after {order.attempts} attempts: {order.trouble or 'no answer'}"
    return True, f"order {order_id}: {order.status}{f', {order.reason}' if order.reason else ''}"


def _seen(engine: Engine, order_id: UUID) -> Row[tuple[UUID, str, str | None, int, str | None]] | None:
    with engine.connect() as connection:
        return connection.execute(SEEN, {"id": order_id}).one_or_none()
