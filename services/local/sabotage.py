"""What keeps the promises, taken out one at a time: to see that the audit notices.

Nameko's command in a process without one safeguard, which the environment variable SABOTAGE names; it runs in place of
`nameko`: `python -m services.local.sabotage run --config config.yaml services.orders.broker`. The tests of the audit
and the page use it.
"""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import text


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
    from services.kit.outbox.table import OutgoingEvent, StatementWithEvents

    run = StatementWithEvents.run
    insert = text("insert into outbox (event_id, type, body) values (:event_id, :type, cast(:body as jsonb))")

    def tell_and_run(statement: Any, connection: Any, *, events: dict[Any, OutgoingEvent], **values: Any) -> Any:
        if statement.name != "end_orders":
            return run(statement, connection, events=events, **values)
        for event in events.values():
            connection.execute(insert, event._asdict())
        between = Path(os.environ["SABOTAGE_FOLDER"], "between")
        if between.exists():
            between.unlink()
            os._exit(1)
        return run(statement, connection, events={}, **values)

    StatementWithEvents.run = tell_and_run  # type: ignore[method-assign, assignment]


def _finish_orders_twice() -> None:
    """An order gets its final status, and its event, from everybody who asks for its payment."""
    from services.orders.store import END

    guard = "and orders.status not in ('paid', 'rejected')"
    assert guard in END.prepare
    END.prepare = END.prepare.replace(guard, "")


def _pay_twice() -> None:
    """Every request to pay is a payment of its own, as if operation ids were not unique."""
    from services.billing import store

    move = store.move

    def pay_anew(connection: Any, movements: Any, *others: Any, **options: Any) -> Any:
        return move(connection, [movement._replace(id=uuid4()) for movement in movements], *others, **options)

    store.move = pay_anew


def _store_letters_twice() -> None:
    """Every delivery of an event is a new letter; the constraints are taken out of the database."""


def main() -> None:
    import eventlet

    eventlet.monkey_patch()

    import nameko.cli.main

    sabotage(os.environ.get("SABOTAGE", ""))
    nameko.cli.main.main()


if __name__ == "__main__":
    main()
