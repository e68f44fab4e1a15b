"""Events in: handled once, tried again with growing pauses, and kept aside when they cannot be handled.

Nameko acknowledges an event even when its handler raised, so the event would be lost. Ours publishes a
failed event to a retry queue, whose messages expire back into the handler's queue after the pause, and only
then acknowledges it. A crash in between leaves both copies: the inbox drops the second one. After the last
pause, and at once when the event cannot be read, it goes to `<queue>.dead` with the reason.
(Hohpe and Woolf, "Enterprise Integration Patterns", 2003: dead letter channel, idempotent receiver.)
"""
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import uuid4

import nameko.events
from kombu import Queue
from nameko.exceptions import ContainerBeingKilled
from pydantic import ValidationError

from services.common import metrics
from services.common.consumer import QueueConsumer
from services.common.problems import OUTCOME_UNKNOWN, Unavailable
from services.common.publisher import Message, Publisher
from services.contracts import Event

log = logging.getLogger(__name__)

ATTEMPT, REASON, DEAD_ID, DIED_AT = "x-attempt", "x-reason", "x-dead-id", "x-died-at"


class EventHandler(nameko.events.EventHandler):
    """Nameko's entrypoint for events, with retries, dead letters and the event as its declared type.

    The method says whether the event was new to it: False counts as a duplicate.
    """

    queue_consumer = QueueConsumer()
    publisher = Publisher()

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        super().__init__(event.SOURCE, event.TYPE)

    def handle_message(self, body: Any, message: Any) -> None:
        try:
            event = self.event.model_validate(body)
        except ValidationError as error:
            self._put_aside(message, body, dead_queue(self.queue), f"no {self.event.__name__}: {_where(error)}", 0)
            self._count("dead")
            return
        try:
            self.container.spawn_worker(
                self, (event,), {}, context_data=self.unpack_message_headers(message),
                handle_result=lambda worker, result, exc_info: self._finish(body, message, result, exc_info))
        except ContainerBeingKilled:
            self.queue_consumer.requeue_message(message)

    def handle_undecodable(self, message: Any, error: Exception) -> None:
        """Put aside what is not JSON."""
        raw = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        self._put_aside(message, raw, dead_queue(self.queue), f"cannot be decoded: {type(error).__name__}", 0)
        self._count("dead")

    def _finish(self, body: Any, message: Any, result: Any, exc_info: Any) -> tuple[Any, Any]:
        if exc_info is None:
            self.queue_consumer.ack_message(message)
            self._count("duplicate" if result is False else "handled")
            return result, exc_info
        pauses_s = self.container.settings.EVENT_RETRY_PAUSES_S
        error = exc_info[1]
        attempt = int(message.headers.get(ATTEMPT, 0))
        if isinstance(error, OUTCOME_UNKNOWN):  # an outage: no fault of the event's, so no attempt of its own
            log.warning("%s waits: %s", self.queue.name, type(error).__name__)
            self._put_aside(message, body, retry_queue(self.queue, pauses_s[0]), type(error).__name__, attempt)
            self._count("waited")
            return result, exc_info
        attempt += 1
        reason = f"{type(error).__name__} at attempt {attempt}"
        log.error("%s failed: %s", self.queue.name, reason, exc_info=exc_info)
        if attempt <= len(pauses_s):
            self._put_aside(message, body, retry_queue(self.queue, pauses_s[attempt - 1]), reason, attempt)
            self._count("retried")
        else:
            self._put_aside(message, body, dead_queue(self.queue), reason, attempt)
            self._count("dead")
        return result, exc_info

    def _put_aside(self, message: Any, body: Any, queue: Queue, reason: str, attempt: int) -> None:
        """Publish a copy to `queue`, then acknowledge; if that fails, the broker delivers the original again."""
        log.info("%s: %s, put into %s", self.queue.name, reason, queue.name)
        headers = {**message.headers, ATTEMPT: attempt, REASON: reason, DEAD_ID: uuid4().hex[:12],
                   DIED_AT: datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            [taken] = self.publisher.publish([Message(body, queue, headers=headers)])
        except Unavailable as error:
            log.warning("%s: could not put a message aside: %s", self.queue.name, error)
            taken = False
        if taken:
            self.queue_consumer.ack_message(message)
        else:
            self.queue_consumer.requeue_message(message)

    def _count(self, outcome: str) -> None:
        metrics.EVENTS_HANDLED.labels(self.container.service_name, self.event.TYPE, outcome).inc()


def event_handler(event: type[Event]) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Handle `event` by the decorated method of a service, which gets it as its argument."""

    def decorate(function: Callable[..., bool]) -> Callable[..., bool]:
        @wraps(function)
        def handle(service: Any, fact: Event) -> bool:
            return function(service, fact)

        return EventHandler.decorator(event)(handle)

    return decorate


def retry_queue(queue: Queue, pause_s: float) -> Queue:
    """The queue in which a message of `queue` waits before its next attempt; it expires back into `queue`."""
    pause_ms = int(pause_s * 1000)
    return Queue(f"{queue.name}.retry-{pause_ms}ms", durable=True, queue_arguments={
        "x-message-ttl": pause_ms, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name})


def dead_queue(queue: Queue) -> Queue:
    """The queue for what of `queue` could not be handled."""
    return Queue(f"{queue.name}.dead", durable=True)


def _where(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]) + ": " + first["msg"]
