"""The life of an order: pending, then paid or rejected for ever."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.contracts import Amount, OrderPaid, OrderRejected, Outcome
from services.kit.event import Event


class OrderStatus(StrEnum):
    """`pending` while the outcome of the payment is not known."""

    PENDING = "pending"
    PAID = "paid"
    REJECTED = "rejected"


class OrderReason(StrEnum):
    """Why an order was rejected: `operation_mismatch` if billing has used the order's id for something else."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    ACCOUNT_NOT_FOUND = "account_not_found"
    OPERATION_MISMATCH = "operation_mismatch"


EXAMPLE: dict[str, JsonValue] = {
    "id": "7d4e0a7c-53a4-4c57-9f0b-2b8a1b6d0e42",
    "user_id": "2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11",
    "price": 1250,
    "status": "paid",
    "reason": None,
    "created_at": "2026-01-31T08:15:31.250000Z",
}


class NewOrder(BaseModel):
    """What a client sends to place an order."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[UUID, Field(description="Who pays", examples=[EXAMPLE["user_id"]])]
    price: Annotated[Amount, Field(description="What it costs, in the minor unit", examples=[EXAMPLE["price"]])]


class OrderView(BaseModel):
    """An order as a client sees it. `reason` is null unless the order is rejected."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                EXAMPLE,
                {**EXAMPLE, "status": "rejected", "reason": "insufficient_funds"},
                {**EXAMPLE, "status": "pending"},
            ]
        },
    )

    id: Annotated[UUID, Field(description="The id of the order, which is also that of its payment in billing")]
    user_id: Annotated[UUID, Field(description="Who pays")]
    price: Annotated[int, Field(description="What it costs, in the minor unit of the currency")]
    status: Annotated[OrderStatus, Field(description="`pending` while the outcome of the payment is not known")]
    reason: Annotated[OrderReason | None, Field(description="Why it was rejected; null unless it was")]
    created_at: Annotated[datetime, Field(description="When the order was stored, RFC 3339 in UTC")]


def payment_for(order: OrderView) -> dict[str, Any]:
    """Return the payment that billing is asked for, as often as it takes: the id of the order makes it one payment.

    Not validated here: if billing rejects one payment, the round is repeated one by one, so it harms only itself.
    """
    return {"operation_id": str(order.id), "user_id": str(order.user_id), "amount": order.price}


def apply_outcome(order: OrderView, outcome: Outcome) -> OrderView:
    """Return the order as the outcome of its payment leaves it: unchanged, if that has decided nothing."""
    match outcome:
        case Outcome.ACCEPTED:
            return order.model_copy(update={"status": OrderStatus.PAID})
        case Outcome.INSUFFICIENT_FUNDS | Outcome.MISMATCH:
            return rejected(order, OrderReason(outcome))
        case Outcome.REFUSED:
            return rejected(order, OrderReason.ACCOUNT_NOT_FOUND)
        case _:
            return order


def rejected(order: OrderView, reason: OrderReason) -> OrderView:
    """Return the order, rejected."""
    return order.model_copy(update={"status": OrderStatus.REJECTED, "reason": reason})


def event_for(order: OrderView) -> Event | None:
    """Return the event of an order that has ended; none for one that was rejected for another reason than money."""
    if order.status == OrderStatus.PAID:
        return OrderPaid(order_id=order.id, user_id=order.user_id, price=order.price)
    if order.reason == OrderReason.INSUFFICIENT_FUNDS:
        return OrderRejected(order_id=order.id, user_id=order.user_id, price=order.price)
    return None
