"""Everything that crosses a process: amounts, events, and what an RPC answers or raises. Read this first.

A producer and its consumers share nothing but this module. Events are facts in the past tense; each is
published to the topic exchange `<source>.events` with its type as routing key, as Nameko names them.
RPCs are served by billing: `open_account`, `open_accounts`, `pay_all`, `pay`, `refuse` and `get_account`; and by users:
`known_users`. Whoever reads an event, an argument or an answer ignores the fields that it does not know, so that a
newer and an older version can run side by side.
"""

from enum import StrEnum
from typing import Annotated, TypedDict
from uuid import UUID

from nameko.exceptions import deserialize_to_instance
from pydantic import BaseModel, ConfigDict, Field

from services.kit.errors import BusinessError
from services.kit.event import Event

#: Money: an integer count of the minor unit of one currency.
MAX_AMOUNT = 10**12
Amount = Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT)]

#: The rule of HTML's <input type=email> (HTML Living Standard, "valid e-mail address"), with a dot in the domain.
Email = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
        r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
        max_length=254,
        examples=["ada@example.com"],
    ),
]

#: Text that PostgreSQL can store and a reader can see: no NUL, not only white space.
Line = Annotated[str, Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", max_length=200)]


class UserRegistered(Event):
    """A user exists and has this e-mail address."""

    SOURCE = "users"
    TYPE = "user_registered"

    user_id: UUID
    email: Email


class OrderPaid(Event):
    """Billing took the price of the order from the user's account."""

    SOURCE = "orders"
    TYPE = "order_paid"

    order_id: UUID
    user_id: UUID
    price: Amount


class OrderRejected(Event):
    """Billing refused the payment, because the account held less than the price."""

    SOURCE = "orders"
    TYPE = "order_rejected"

    order_id: UUID
    user_id: UUID
    price: Amount


EVENTS: tuple[type[Event], ...] = (UserRegistered, OrderPaid, OrderRejected)


class Outcome(StrEnum):
    """What billing answers to `pay`. The first two are stored with the operation: asking again gives the same one.

    So is `REFUSED`, by `refuse`, for a payment whose caller knows that there is no such user. The others decide nothing
    and store nothing. `ACCOUNT_NOT_FOUND`: there is no account, perhaps not yet. `BUSY`: somebody else holds it, ask
    again later. `MISMATCH`: the operation id was used before with other values; asking again cannot help.
    """

    ACCEPTED = "accepted"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    REFUSED = "refused"
    ACCOUNT_NOT_FOUND = "account_not_found"
    BUSY = "busy"
    MISMATCH = "operation_mismatch"


class Payment(BaseModel):
    """What `pay_all` takes a list of. `operation_id` is the id of the order."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer caller may send more

    operation_id: UUID
    user_id: UUID
    amount: Amount


class AccountState(TypedDict):
    """What billing answers to `open_account` and `get_account`."""

    user_id: str
    balance: int


@deserialize_to_instance
class AccountNotFound(BusinessError):
    """The user has no account in billing."""


@deserialize_to_instance
class OperationMismatch(BusinessError):
    """The operation id was used before with another account, amount or kind."""
