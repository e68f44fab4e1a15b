"""Notifications in the style `http`: it serves PUTs under the id of the order or the user, which may come again."""

from collections.abc import Sequence
from uuid import UUID

from services.contracts import ContactRequest, LetterRequest, OrderPaid, OrderRejected, UserRegistered
from services.kit.batching import batched
from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Reply, http
from services.notifications import service
from services.notifications.domain import LetterKind


class NotificationsService(service.Notifications):
    """Is asked to store the letter of each order."""

    @http(
        "PUT",
        "/internal/notifications/letters/<uuid:order_id>",
        needs=Rule.SERVICES,
        body=LetterRequest,
        answers={200: LetterRequest},
        summary="Store the letter of an order",
    )
    def put_letter(self, order_id: UUID, body: LetterRequest) -> Reply:
        """Store the letter, once for each order."""
        order = {"event_id": body.event_id, "order_id": order_id, "user_id": body.user_id, "price": body.price}
        if LetterKind(body.kind) == LetterKind.ORDER_PAID:
            self._add_paid_together.one(OrderPaid.model_validate(order))
        else:
            self._add_rejected_together.one(OrderRejected.model_validate(order))
        return Reply(200, body)

    @batched()
    def _add_paid_together(self, events: Sequence[OrderPaid]) -> Sequence[bool]:
        return self._add_paid(events)

    @batched()
    def _add_rejected_together(self, events: Sequence[OrderRejected]) -> Sequence[bool]:
        return self._add_rejected(events)

    @http(
        "PUT",
        "/internal/notifications/contacts/<uuid:user_id>",
        needs=Rule.SERVICES,
        body=ContactRequest,
        answers={200: ContactRequest},
        summary="Keep where a user gets letters",
    )
    def put_contact(self, user_id: UUID, body: ContactRequest) -> Reply:
        """Keep the address, once for each user."""
        self._add_contacts([UserRegistered(user_id=user_id, email=body.email)])
        return Reply(200, body)
