"""The broker of embedded mode: kombu's memory transport, with what Nameko and we need on top.

It loses everything when the process ends. When embedded mode starts it therefore publishes again every event that the
outboxes still hold; what was handled already is a duplicate to its handler (see `embedded.py`).
"""

from collections import defaultdict
from queue import Empty
from time import monotonic
from typing import Any

from eventlet import Timeout
from eventlet.event import Event
from kombu.transport import TRANSPORT_ALIASES, memory, virtual

URI = "embedded://localhost/"
HURRY_S = 0.01  # after which a consumer is asked whether it is to stop
TRANSPORT_ALIASES["embedded"] = f"{__name__}:Transport"


class Message(virtual.Message):
    """A message whose properties hold its content type, where Nameko's RPC looks for it."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel, **kwargs)
        self.properties["content_type"] = payload["content-type"]


class Channel(memory.Channel):
    """A channel with publisher confirms and mandatory routing."""

    Message = Message

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.events: dict[str, set[Any]] = defaultdict(set)
        self.sent = 0

    def confirm_select(self) -> None:
        """Do nothing: every message is confirmed at once, as it is in its queues when it is published."""

    def basic_publish(
        self, message: Any, exchange: str, routing_key: str, mandatory: bool = False, **kwargs: Any
    ) -> None:
        self.sent += 1
        routed = self._lookup(exchange, routing_key) if exchange else routing_key in self.queues
        if routed:
            super().basic_publish(message, exchange, routing_key, **kwargs)
        elif mandatory:
            returned = Message({**message, "properties": {**message["properties"], "delivery_tag": None}, "body": None})
            for callback in self.events["basic_return"]:
                callback(None, exchange, routing_key, returned)
        for callback in self.events["basic_ack"]:
            callback(self.sent, False)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        super()._put(queue, message, **kwargs)
        Transport.wake_all()

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge a message, which makes room for the next."""
        super().basic_ack(delivery_tag, multiple)
        Transport.wake_all()

    def close(self) -> None:
        """Close this channel only: the queues are those of all channels."""
        virtual.Channel.close(self)


class Transport(memory.Transport):
    """A transport whose consumers sleep until a message comes, rather than poll."""

    Channel = Channel
    _wake = Event()
    _is_in_hurry = False

    @classmethod
    def wake_all(cls) -> None:
        """Have every consumer look into its queues."""
        cls._wake.send()
        cls._wake = Event()

    @classmethod
    def hurry(cls) -> None:
        """Let no consumer wait for messages any more, so that each sees at once that it is to stop."""
        cls._is_in_hurry = True
        cls.wake_all()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message. Raises TimeoutError when none has come within `timeout` seconds, or in a hurry."""
        started = monotonic()
        while True:
            wake = Transport._wake
            try:
                self.cycle.get(self._deliver)
                return
            except Empty:
                pass
            longest_s = HURRY_S if self._is_in_hurry else timeout
            left_s = None if longest_s is None else started + longest_s - monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            with Timeout(left_s, False):
                wake.wait()
