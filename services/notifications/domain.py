"""What letters say."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from services.contracts import Email, Line, OrderPaid, OrderRejected, PaymentAccepted, PaymentRefused, Text


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


EXAMPLE: dict[str, JsonValue] = {
    "id": "5b0d1f4c-0a3e-4b7d-8a53-41f6a1d2c9e8",
    "user_id": "2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11",
    "order_id": "7d4e0a7c-53a4-4c57-9f0b-2b8a1b6d0e42",
    "email": "ada@example.com",
    "kind": "order_paid",
    "subject": "Your order is paid",
    "body": "Order 7d4e0a7c-53a4-4c57-9f0b-2b8a1b6d0e42 for 12.50 is paid. Thank you!",
    "created_at": "2026-01-31T08:15:31.500000Z",
}


class NewMessage(BaseModel):
    """What a client sends to have a letter stored: to a user, to an address, or both."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[
        UUID | None, Field(description="To whom; this, or `email`, or both", examples=[EXAMPLE["user_id"]])
    ] = None
    email: Annotated[
        Email | None, Field(description="Where to; this, or `user_id`, or both", examples=["ada@example.com"])
    ] = None
    subject: Annotated[Line, Field(description="What it is about", examples=["Hello"])]
    body: Annotated[Text, Field(description="What it says", examples=["Good to see you."])]

    @model_validator(mode="after")
    def _has_an_addressee(self) -> "NewMessage":
        if self.user_id is None and self.email is None:
            raise ValueError("user_id or email should be given")
        return self


class LetterView(BaseModel):
    """A letter as a client sees it. `email` is null until the user's address is known."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    id: Annotated[UUID, Field(description="The id of the letter")]
    user_id: Annotated[UUID | None, Field(description="To whom it is; null for a message to an address only")]
    order_id: Annotated[UUID | None, Field(description="The order that it is about; null for a message")]
    email: Annotated[str | None, Field(description="Where it goes; null until the user's address is known")]
    kind: Annotated[LetterKind, Field(description="`order_paid` is the letter of happiness, `order_rejected` of grief")]
    subject: Annotated[str, Field(description="What it is about")]
    body: Annotated[str, Field(description="What it says")]
    created_at: Annotated[datetime, Field(description="When it was stored, RFC 3339 in UTC")]


class EventView(BaseModel):
    """A letter as those learn of it who follow letters."""

    id: Annotated[str, Field(description="Its position: after it, the client goes on")]
    type: Annotated[LetterKind, Field(description="The kind of the letter")]
    letter: Annotated[LetterView, Field(description="The letter")]


AT = "7431234567890123456.1234.5b0d1f4c-0a3e-4b7d-8a53-41f6a1d2c9e8"


class EventPage(BaseModel):
    """Events that come after a position, the oldest first; `next` is the position after them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"id": AT, "type": "order_paid", "letter": EXAMPLE}], "next": AT}],
        }
    )

    items: Annotated[list[EventView], Field(description="The events, oldest first; none if there are no more yet")]
    next: Annotated[str, Field(description="What to ask for next, as `after`")]

    @classmethod
    def of(cls, entries: Sequence[tuple[object, str, Any]], after: object) -> "EventPage":
        """Return the page of `entries`, each with its position, type and letter, that come after `after`."""
        items = [EventView(id=str(at), type=LetterKind(type_), letter=letter) for at, type_, letter in entries]
        return cls(items=items, next=items[-1].id if items else str(after))
