"""Notifications in the style `broker`: orders tells how each order ended."""

from services.notifications import service


class NotificationsService(service.HearingNotifications):
    """Hears `order_paid` and `order_rejected`; the events of payments are left by the style `events`."""
