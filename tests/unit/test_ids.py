"""Ids sort by the time when they were made, so that new rows stand together in an index."""

from uuid import UUID

import pytest
from sqlalchemy import Column

from services.billing import models as billing
from services.billing.domain import OperationKind
from services.billing.store import Movement
from services.contracts import OrderPaid
from services.kit.ids import new_id
from services.notifications import models as notifications
from services.notifications.domain import LetterKind
from services.notifications.store import NewLetter
from services.orders import models as orders
from services.users import models as users


def made() -> dict[str, UUID]:
    """Return one id of each kind that the services make by themselves."""
    event = OrderPaid(order_id=new_id(), user_id=new_id(), price=1)
    return {
        "event": event.event_id,
        "letter": NewLetter.of(LetterKind.ORDER_PAID, event, "subject", "body").id,
        "operation": Movement.of(OperationKind.DEPOSIT, new_id(), 1).id,
    }


def test_ids_made_later_sort_later():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", list(made()))
def test_each_kind_of_id_is_of_version_7(kind: str):
    assert made()[kind].version == 7


@pytest.mark.parametrize("model", [billing.Operation, notifications.Letter, orders.Order, users.User])
def test_a_row_without_an_id_gets_one_of_version_7(model: type):
    column: Column[UUID] = model.__table__.c.id  # type: ignore[attr-defined]
    assert column.default is not None
    assert column.default.arg(None).version == 7  # type: ignore[attr-defined]
