"""The rules of money: amounts are integers in the minor unit of one currency.

An operation moves its amount between two accounts of the ledger, so the books always sum to zero (Pacioli,
"Summa de arithmetica", 1494). A user's account is the user's money; `cash` is what we hold for all of them,
`revenue` is what they have paid for orders.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue

from services.contracts import Amount, Outcome, PaymentAccepted, PaymentRefused

CASH, REVENUE = "cash", "revenue"


class OperationKind(StrEnum):
    """What an operation is."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    PAYMENT = "payment"


def change(kind: OperationKind, amount: int) -> int:
    """Return by how much an operation changes the balance of the user's account."""
    return amount if kind == OperationKind.DEPOSIT else -amount


def entries(kind: OperationKind, user_id: UUID) -> tuple[str, str]:
    """Return the ledger accounts that an operation debits and credits; `str(user_id)` is the user's own."""
    match kind:
        case OperationKind.DEPOSIT:
            return CASH, str(user_id)
        case OperationKind.WITHDRAWAL:
            return str(user_id), CASH
        case OperationKind.PAYMENT:
            return str(user_id), REVENUE


def event_of(order_id: UUID, user_id: UUID, price: int, outcome: Outcome) -> PaymentAccepted | PaymentRefused:
    """Return the event that tells what became of the payment for an order."""
    if outcome == Outcome.ACCEPTED:
        return PaymentAccepted(order_id=order_id, user_id=user_id, price=price)
    reason = Outcome.ACCOUNT_NOT_FOUND if outcome == Outcome.REFUSED else outcome
    return PaymentRefused(order_id=order_id, user_id=user_id, price=price, reason=reason)


EXAMPLE: dict[str, JsonValue] = {
    "operation_id": "c05b2f4e-1f1a-4f6f-9b2e-3a0c9d7e5b21",
    "user_id": "2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11",
    "amount": 5000,
    "balance": 5000,
    "kind": "deposit",
    "created_at": "2026-01-31T08:15:30.500000Z",
}


class Money(BaseModel):
    """What a client sends to deposit or withdraw."""

    model_config = ConfigDict(extra="forbid")

    amount: Annotated[Amount, Field(description="How much, in the minor unit", examples=[EXAMPLE["amount"]])]


class AccountView(BaseModel):
    """An account as a client sees it."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={"examples": [{"user_id": EXAMPLE["user_id"], "balance": EXAMPLE["balance"]}]},
    )

    user_id: Annotated[UUID, Field(description="Whose account it is")]
    balance: Annotated[int, Field(description="What the user has, in the minor unit of the currency")]


class OperationView(BaseModel):
    """An operation that was carried out, and the balance right after it: a receipt, and a line of the statement."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    operation_id: Annotated[
        UUID, Field(validation_alias=AliasChoices("operation_id", "id"), description="The id of the operation")
    ]
    user_id: Annotated[UUID, Field(description="Whose account it is")]
    amount: Annotated[int, Field(description="How much was moved, in the minor unit of the currency")]
    balance: Annotated[int, Field(description="What the user had right after it")]
    kind: Annotated[OperationKind, Field(description="What it was; a payment has the id of its order")]
    created_at: Annotated[datetime, Field(description="When it was carried out, RFC 3339 in UTC")]
