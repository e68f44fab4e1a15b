"""Notifications in the style `events`: billing tells what became of each payment."""

from services.notifications import service


class NotificationsService(service.HearingNotifications):
    """Hears `payment_accepted` and `payment_refused`; the events of orders are left by the style `broker`."""
