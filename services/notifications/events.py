"""Notifications in the style `events`: billing tells what became of each payment."""

from services.contracts import OrderPaid, OrderRejected, Outcome, PaymentAccepted, PaymentRefused, UserRegistered
from services.kit.amqp.events import event_handler
from services.kit.inbox.provider import Inbox
from services.notifications import models, service


class NotificationsService(service.Notifications):
    """Hears from billing what became of each payment, as orders does.

    Each handler returns whether each of its events was new to it.
    """

    inbox = Inbox(models.InboxEvent)

    @event_handler(PaymentAccepted)
    def on_payment_accepted(self, events: list[PaymentAccepted]) -> list[bool]:
        """Store the letters of happiness."""
        return self._add_paid(events)

    @event_handler(PaymentRefused)
    def on_payment_refused(self, events: list[PaymentRefused]) -> list[bool]:
        """Store the letters of grief, of those that lacked money."""
        lacking = [event for event in events if event.reason == Outcome.INSUFFICIENT_FUNDS]
        new = dict(zip([event.event_id for event in lacking], self._add_rejected(lacking), strict=True))
        return [new.get(event.event_id, True) for event in events]

    @event_handler(UserRegistered)
    def on_user_registered(self, events: list[UserRegistered]) -> list[bool]:
        """Remember where the users get letters, also those stored before this."""
        return self._add_contacts(events)

    # What the style `broker` has left when the style was changed.

    @event_handler(OrderPaid)
    def on_order_paid(self, events: list[OrderPaid]) -> list[bool]:
        """Store the letters of happiness."""
        return self._add_paid(events)

    @event_handler(OrderRejected)
    def on_order_rejected(self, events: list[OrderRejected]) -> list[bool]:
        """Store the letters of grief."""
        return self._add_rejected(events)
