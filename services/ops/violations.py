"""The kinds of violation that the audit knows. docs/operations.md says of each what it means, and what mends it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What is wrong, as it is reported, with a place for each value in it."""

    BALANCE = "account {id}: balance {balance}, but its operations sum to {total}"
    UNDECIDED = "operation {id}: neither accepted nor refused"
    PENDING = "order {id}: still pending, created {created}"
    NO_PAYMENT = "order {id}: paid, but billing has no payment"
    NOT_PAID = "order {id}: {status}, but billing has a payment"
    OTHER_PAYMENT = "order {id}: its payment is of another account or amount"
    NO_LETTER = "order {id}: {status}, its letters are none"
    OTHER_LETTERS = "order {id}: {status}, its letters are {letters}"
    USER_EXISTS = "order {id}: refused for want of an account, but its user {user_id} exists"
    PAYMENT_ALONE = "payment for order {id}: there is no such order"
    LETTER_ALONE = "letter for order {id}: there is no such order"
    TWO_ORDERS = "request {id}: has made {count} orders"
    TWO_EVENTS = "order {id}: was told of {count} times"
    TWO_EFFECTS = "{table}: the Idempotency-Key {id!r} has more than one effect"


@dataclass(frozen=True)
class Violation:
    """One violation; `id` is that of the account, the operation, the order or the request that it is about."""

    kind: Kind
    id: Any
    text: str

    @classmethod
    def of(cls, kind: Kind, id_: Any, **values: Any) -> "Violation":
        return cls(kind, id_, kind.format(id=id_, **values))

    def __str__(self) -> str:
        return self.text
