"""What keeps the promises, taken out one at a time: to see that the tests and the audit would notice."""
from typing import Any


def sabotage(what: str) -> None:
    """Take out one safeguard of the services in this process."""
    if what:
        {"outbox": _tell_before_the_commit, "pending": _finish_orders_twice, "operation": _pay_twice,
         "inbox": _store_letters_twice}[what]()


#: ... and of the databases: service, statement.
SCHEMA = {
    "outbox": [], "pending": [], "operation": [],
    "inbox": [("notifications", "alter table letters drop constraint letters_event_id_key"),
              ("notifications", "alter table letters drop constraint letters_order_id_key")],
}


def _tell_before_the_commit() -> None:
    """An event is written in a transaction of its own, before that of what it tells of: a dual write."""
    from services.common.outbox import Outbox

    add = Outbox.add

    def add_at_once(self: Outbox, session: Any, fact: Any) -> None:
        with self.database.session() as other:
            add(self, other, fact)

    Outbox.add = add_at_once  # type: ignore[method-assign]


def _finish_orders_twice() -> None:
    """An order gets its final status, and its event, from everybody who asks for its payment."""
    from sqlalchemy import update

    from services.orders import store
    from services.orders.models import Order

    def finish(session: Any, order_id: Any, status: Any, reason: Any) -> Any:
        return session.scalars(
            update(Order).where(Order.id == order_id).values(status=status, reason=reason).returning(Order)
            .execution_options(populate_existing=True, synchronize_session=False)).one()

    store.finish = finish


def _pay_twice() -> None:
    """Every request to pay is a payment of its own, as if operation ids were not unique."""
    from uuid import uuid4

    from services.billing import store

    claim_payment = store.claim_payment
    store.claim_payment = lambda session, operation_id, *asked: claim_payment(session, uuid4(), *asked)


def _store_letters_twice() -> None:
    """Every delivery of an event is a new letter; the constraints are taken out of the database."""
