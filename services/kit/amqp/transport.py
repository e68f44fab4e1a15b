"""The transport of an outbox by the broker: an event is safe when the broker has confirmed and routed it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property

from kombu import Exchange
from nameko.extensions import Extension
from nameko.standalone.events import get_event_exchange

from services.kit.amqp.message import Message
from services.kit.amqp.publisher import PipelinedPublisher
from services.kit.amqp.watch import BrokerWatch
from services.kit.outbox.table import OutgoingEvent
from services.kit.seams import Container
from services.kit.tracing import Kind, Span, headers

JSON = {"content_type": "application/json", "content_encoding": "utf-8"}


class AmqpTransport(Extension):
    """Publishes events to the exchange of their service, with confirms and `mandatory`."""

    container: Container
    name = "amqp"
    receiver = "the broker"
    publisher = PipelinedPublisher()
    watch = BrokerWatch()

    @cached_property
    def _exchange(self) -> Exchange:
        return get_event_exchange(self.container.service_name, self.container.config)

    def send(self, events: Sequence[OutgoingEvent]) -> None:
        with self._sending(events):
            self.publisher.send([self._message(event) for event in events])

    def wait_for_confirms(self) -> list[bool]:
        return self.publisher.wait_for_confirms()

    def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        with self._sending(events):
            return self.publisher.publish([self._message(event) for event in events])

    def _sending(self, events: Sequence[OutgoingEvent]) -> AbstractContextManager[Span]:
        contexts = [(event.event_id, event.traceparent) for event in events]
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": self._exchange.name,
            "messaging.batch.message_count": len(events),
        }
        return self.container.tracer.batch(f"send {self._exchange.name}", contexts, Kind.CLIENT, attributes)

    def _message(self, event: OutgoingEvent) -> Message:
        return Message(
            event.body.encode(),
            self._exchange,
            event.type,
            headers(event.traceparent),
            {"message_id": event.event_id},
            JSON,
        )
