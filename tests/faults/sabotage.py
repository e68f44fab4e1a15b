"""What keeps the promises, taken out one at a time: to see that the tests and the audit would notice."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4


def sabotage(what: str) -> None:
    """Take out one safeguard of the services in this process."""
    if what:
        {
            "outbox": _tell_before_the_commit,
            "pending": _finish_orders_twice,
            "operation": _pay_twice,
            "inbox": _store_letters_twice,
        }[what]()


#: ... and of the databases: service, statement.
SCHEMA = {
    "outbox": [],
    "pending": [],
    "operation": [],
    "inbox": [
        ("notifications", "alter table letters drop constraint letters_event_id_key"),
        ("notifications", "alter table letters drop constraint letters_order_id_key"),
    ],
}


def _tell_before_the_commit() -> None:
    """An event is written by a statement of its own, before that of what it tells of: a dual write."""
    from services.kit.db.statements import PreparedStatement
    from services.kit.outbox.relay import Envelope
    from services.orders import store
    from services.orders.domain import announcement

    tell = PreparedStatement(
        "tell", ["uuid", "text", "jsonb"], "insert into outbox (event_id, type, body) values ($1, $2, $3)"
    )
    finish = store.finish

    def tell_and_finish(connection: Any, orders: Any, lease_s: float) -> Any:
        for event in filter(None, map(announcement, orders)):
            tell.run(connection, *Envelope.of(event))
        between = Path(os.environ["CRASH_PLAN_FOLDER"], "between")
        if between.exists():
            between.unlink()
            os._exit(1)
        store.announcement = lambda order: None  # type: ignore[assignment]
        return finish(connection, orders, lease_s)

    store.finish = tell_and_finish


def _finish_orders_twice() -> None:
    """An order gets its final status, and its event, from everybody who asks for its payment."""
    from services.orders.store import FINISH

    guard = "and orders.status not in ('paid', 'rejected')"
    assert guard in FINISH.prepare
    FINISH.prepare = FINISH.prepare.replace(guard, "")


def _pay_twice() -> None:
    """Every request to pay is a payment of its own, as if operation ids were not unique."""
    from services.billing import store

    carry_out = store.carry_out

    def pay_anew(connection: Any, payments: Any, wait: bool) -> Any:
        anew = {uuid4(): payment for payment in payments}
        outcomes = carry_out(
            connection, [payment.model_copy(update={"operation_id": id_}) for id_, payment in anew.items()], wait
        )
        return {anew[id_].operation_id: outcome for id_, outcome in outcomes.items()}

    store.carry_out = pay_anew


def _store_letters_twice() -> None:
    """Every delivery of an event is a new letter; the constraints are taken out of the database."""
