"""What notifications is told in the style `http`: which PUT carries which event of the outboxes.

It may be an event that another style has left: whoever had been told of it by a broker is told by HTTP now.
"""

from pydantic import BaseModel

from services.contracts import (
    ContactRequest,
    LetterRequest,
    OrderPaid,
    OrderRejected,
    Outcome,
    PaymentAccepted,
    PaymentRefused,
    UserRegistered,
)
from services.kit.outbox.table import OutgoingEvent

LETTERS = {
    OrderPaid.TYPE: "order_paid",
    OrderRejected.TYPE: "order_rejected",
    PaymentAccepted.TYPE: "order_paid",
    PaymentRefused.TYPE: "order_rejected",
}


def notice_of(event: OutgoingEvent) -> tuple[str, BaseModel] | None:
    """Return the path and the body of the PUT for an event; None for one that notifications need not know."""
    if event.type == UserRegistered.TYPE:
        user = UserRegistered.model_validate_json(event.body)
        return f"/internal/notifications/contacts/{user.user_id}", ContactRequest(email=user.email)
    if event.type == PaymentRefused.TYPE:
        refused = PaymentRefused.model_validate_json(event.body)
        if refused.reason != Outcome.INSUFFICIENT_FUNDS:
            return None
    if event.type not in LETTERS:
        return None
    order = OrderPaid.model_validate_json(event.body)  # all of these have its fields
    letter = {"event_id": event.event_id, "user_id": order.user_id, "kind": LETTERS[event.type], "price": order.price}
    return f"/internal/notifications/letters/{order.order_id}", LetterRequest.model_validate(letter)
