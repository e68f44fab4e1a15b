"""What letters say."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.contracts import Email, Line, OrderPaid, OrderRejected, PaymentAccepted, PaymentRefused

Body = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=10_000)]


class LetterKind(StrEnum):
    """What a letter is about."""

    ORDER_PAID = "order_paid"  # the letter of happiness
    ORDER_REJECTED = "order_rejected"  # the letter of grief
    MESSAGE = "message"  # anything else that somebody had to say


def paid_letter(event: OrderPaid | PaymentAccepted) -> tuple[str, str]:
    """Return subject and body of the letter of happiness, for an order that was paid."""
    return "Your order is paid", f"Order {event.order_id} for {money(event.price)} is paid. Thank you!"


def rejected_letter(event: OrderRejected | PaymentRefused) -> tuple[str, str]:
    """Return subject and body of the letter of grief, for an order that could not be paid."""
    return "Your order was rejected", (
        f"Order {event.order_id} for {money(event.price)} was rejected: "
        "there is not enough money on your account. Nothing was taken."
    )


def money(amount: int) -> str:
    """Return an amount as people write it, with two decimals."""
    return f"{amount // 100}.{amount % 100:02}"


class NewMessage(BaseModel):
    """What a client sends to have a letter stored: to a user, to an address, or both."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
                {"required": ["email"], "properties": {"email": {"type": "string"}}},
            ]
        },
    )

    user_id: UUID | None = None
    email: Email | None = None
    subject: Line
    body: Body

    @model_validator(mode="after")
    def _has_an_addressee(self) -> "NewMessage":
        if self.user_id is None and self.email is None:
            raise ValueError("user_id or email should be given")
        return self


class LetterView(BaseModel):
    """A letter as a client sees it. `email` is null until the user's address is known."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID | None
    order_id: UUID | None
    email: str | None
    kind: LetterKind
    subject: str
    body: str
    created_at: datetime
