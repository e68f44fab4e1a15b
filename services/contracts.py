"""What the services tell each other: events, and what calls take, return and raise. Read this first.

The services share nothing but this module and the kit, whose `InvalidArgument` and `NotNow` an RPC may raise as well.
Events are facts in the past tense. Each is published to the topic exchange `<source>.events` with its type as routing
key, as Nameko names them.

There are three styles of interaction. In the style `broker` billing serves the RPCs `open_accounts`, `pay_all` and
`refuse`, and `open_account`, `pay` and `get_account` for those who call by hand; users serves `known_users`. In the
style `http` the same is asked by PUTs under the id of the order or the user (`PaymentRequest` and what follows it). In
the style `events` nobody asks: `OrderPlaced` and `PaymentAccepted` or `PaymentRefused` take their place.

Readers of an event, an argument or an answer ignore the fields that they do not know, so that a newer and an older
version can run side by side.
"""

from enum import StrEnum
from typing import Annotated, Literal, TypedDict
from uuid import UUID

from nameko.exceptions import deserialize_to_instance
from pydantic import BaseModel, ConfigDict, Field

from services.kit.errors import BusinessError
from services.kit.event import Event
from services.kit.web.catalogue import Says

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
    Says("email", "should be an e-mail address like ada@example.com"),
]

#: Text that PostgreSQL can store and a reader can see: no NUL, not only white space.
Line = Annotated[
    str,
    Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", max_length=200),
    Says("line", "should be text of 1 to 200 characters, not only spaces"),
]


#: What a letter says.
Text = Annotated[
    str,
    Field(pattern=r"^[^\x00]*$", max_length=10_000),
    Says("text", "should be text of up to 10,000 characters"),
]

#: The attribute of spans, and of lines of the log, with the id of an order.
ORDER_ID = "shop.order.id"


class UserRegistered(Event):
    """A user exists and has this e-mail address."""

    SOURCE = "users"
    TYPE = "user_registered"
    ABOUT = "user_id"

    user_id: UUID
    email: Email


class OrderPaid(Event):
    """Billing took the price of the order from the user's account."""

    SOURCE = "orders"
    TYPE = "order_paid"
    ABOUT = "order_id"

    order_id: UUID
    user_id: UUID
    price: Amount


class OrderRejected(Event):
    """Billing refused the payment, because the account held less than the price."""

    SOURCE = "orders"
    TYPE = "order_rejected"
    ABOUT = "order_id"

    order_id: UUID
    user_id: UUID
    price: Amount


class AccountOpened(Event):
    """The user has an account in billing."""

    SOURCE = "billing"
    TYPE = "account_opened"
    ABOUT = "user_id"

    user_id: UUID


class OrderPlaced(Event):
    """A client wants this, and nobody has paid for it yet."""

    SOURCE = "orders"
    TYPE = "order_placed"
    ABOUT = "order_id"

    order_id: UUID
    user_id: UUID
    price: Amount


class PaymentAccepted(Event):
    """Billing took the price of the order from the user's account, and did not need to be asked."""

    SOURCE = "billing"
    TYPE = "payment_accepted"
    ABOUT = "order_id"

    order_id: UUID
    user_id: UUID
    price: Amount


class PaymentRefused(Event):
    """Billing took nothing for the order. `reason` is an Outcome that is no acceptance."""

    SOURCE = "billing"
    TYPE = "payment_refused"
    ABOUT = "order_id"

    order_id: UUID
    user_id: UUID
    price: Amount
    reason: str


#: Events of all styles; `nameko-hw asyncapi` says which of them a style has.
EVENTS: tuple[type[Event], ...] = (
    UserRegistered,
    AccountOpened,
    OrderPlaced,
    PaymentAccepted,
    PaymentRefused,
    OrderPaid,
    OrderRejected,
)


class Outcome(StrEnum):
    """What becomes of a payment.

    ACCEPTED and INSUFFICIENT_FUNDS are decided by billing, REFUSED too, for a payment whose caller knows that there is
    no such user, or that has waited long enough for its account. These three are stored with the operation: asking
    again returns the same one.

    Nothing is stored for the others. ACCOUNT_NOT_FOUND and BUSY are temporary: ask again. MISMATCH is final: the
    operation id was used before with other values.
    """

    ACCEPTED = "accepted"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    REFUSED = "refused"
    ACCOUNT_NOT_FOUND = "account_not_found"
    BUSY = "busy"
    MISMATCH = "operation_mismatch"


class Payment(BaseModel):
    """One of the payments that `pay_all` takes. `operation_id` is the id of the order."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer caller may send more

    operation_id: UUID
    user_id: UUID
    amount: Amount


class PaymentRequest(BaseModel):
    """The body of PUT /internal/billing/payments/{order_id}, and of .../refusals/{order_id}."""

    model_config = ConfigDict(extra="ignore")

    user_id: UUID
    amount: Amount


class PaymentState(BaseModel):
    """The answer to both."""

    order_id: UUID
    outcome: str


class UserKnown(BaseModel):
    """The answer to GET /internal/users/{user_id}: whether there is such a user."""

    is_known: bool


class ContactRequest(BaseModel):
    """The body of PUT /internal/notifications/contacts/{user_id}, and of the answer."""

    model_config = ConfigDict(extra="ignore")

    email: Email


class LetterRequest(BaseModel):
    """The body of PUT /internal/notifications/letters/{order_id}, and of the answer; `event_id` is the event's."""

    model_config = ConfigDict(extra="ignore")

    event_id: UUID
    user_id: UUID
    kind: Literal["order_paid", "order_rejected"]
    price: Amount


class AccountState(TypedDict):
    """The account that `open_account` and `get_account` return."""

    user_id: str
    balance: int


@deserialize_to_instance
class AccountNotFound(BusinessError):
    """The user has no account in billing."""


@deserialize_to_instance
class OperationMismatch(BusinessError):
    """The operation id was used before with another account, amount or kind."""
