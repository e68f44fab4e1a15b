"""How the events of an outbox leave the service. The relay decides what is published when; a transport carries it."""

from collections.abc import Sequence
from typing import Protocol

from services.kit.outbox.table import OutgoingEvent


class Transport(Protocol):
    """Carries events to those who are to know of them, any number of times: whoever gets them handles each once.

    `name` stands in the database of the service: the transport by which this outbox is published (see `handover.py`).
    `receiver` is what the log calls the other side.
    """

    name: str
    receiver: str

    def send(self, events: Sequence[OutgoingEvent]) -> None:
        """Send events; raise Unavailable if that fails: all that is not confirmed yet may be lost."""

    def wait_for_confirms(self) -> list[bool]:
        """Return for each event sent since the last time whether it is safe at the other side.

        False means that this event was not taken, which says nothing of the others. Raise Unavailable if the other side
        is away; Refused if it refuses one of them for good, and does not say which.
        """

    def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        """Send events, and wait for their confirms alone; raise as the other two do."""
