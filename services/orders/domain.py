"""The life of an order: pending, then paid or rejected for ever."""
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services.contracts import Amount, Event, OrderPaid, OrderRejected, Outcome


class Status(StrEnum):
    """`pending` while the outcome of the payment is not known."""

    PENDING = "pending"
    PAID = "paid"
    REJECTED = "rejected"


def verdict(outcome: Outcome) -> tuple[Status, Outcome | None]:
    """The status, and the reason of a rejection, that the outcome of a payment gives its order."""
    if outcome == Outcome.ACCEPTED:
        return Status.PAID, None
    return Status.REJECTED, outcome


def announcement(order: "OrderView") -> Event | None:
    """The event to publish of a finished order; none for one whose user has no account, and so no letter."""
    if order.status == Status.PAID:
        return OrderPaid(order_id=order.id, user_id=order.user_id, price=order.price)
    if order.reason == Outcome.INSUFFICIENT_FUNDS:
        return OrderRejected(order_id=order.id, user_id=order.user_id, price=order.price)
    return None


class NewOrder(BaseModel):
    """What a client sends to place an order."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID
    price: Amount


class OrderView(BaseModel):
    """An order as a client sees it. `reason` is null unless the order is rejected."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID
    price: int
    status: Status
    reason: Outcome | None
    created_at: datetime
