"""Events in: handled once, tried again with growing pauses, and kept aside when they cannot be handled.

Nameko acknowledges an event even when its handler raised, so the event would be lost. Ours publishes a
failed event to a retry queue, whose messages expire back into the handler's queue after the pause, and only
then acknowledges it. A crash in between leaves both copies: the inbox drops the second one. After the last
pause, and at once when the event cannot be read, it goes to `<queue>.dead` with the reason.
(Hohpe and Woolf, "Enterprise Integration Patterns", 2003: dead letter channel, idempotent receiver.)
"""
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, NamedTuple, TypeVar
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
E = TypeVar("E", bound=Event)

ATTEMPT, REASON, DEAD_ID, DIED_AT = "x-attempt", "x-reason", "x-dead-id", "x-died-at"


class Delivery(NamedTuple):
    """An event, and the message that brought it."""

    event: Event
    body: Any
    message: Any


class EventHandler(nameko.events.EventHandler):
    """Nameko's entrypoint for events, with batches, retries, dead letters and events as their declared type.

    The method gets a list of events, all that came while it was busy with the list before, and says of each
    whether it was new: False counts as a duplicate. When it fails, each event is handled again alone.
    """

    queue_consumer = QueueConsumer()
    publisher = Publisher()

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self._waiting: list[Delivery] = []
        self._alone: deque[Delivery] = deque()  # of a batch that failed: each is handled again by itself
        self._is_busy = False
        super().__init__(event.SOURCE, event.TYPE)

    def handle_message(self, body: Any, message: Any) -> None:
        try:
            event = self.event.model_validate(body)
        except ValidationError as error:
            self._put_aside(message, body, dead_queue(self.queue), f"no {self.event.__name__}: {_where(error)}", 0)
            self._count("dead")
            return
        self._waiting.append(Delivery(event, body, message))
        if not self._is_busy:
            self._handle_next()

    def _handle_next(self) -> None:
        """Have a worker handle what waits, up to EVENT_BATCH at a time; what is to be handled alone comes first."""
        self._is_busy = bool(self._alone or self._waiting)
        if not self._is_busy:
            return
        if self._alone:
            batch = [self._alone.popleft()]
        else:
            most = self.container.settings.EVENT_BATCH
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
        try:
            self.container.spawn_worker(
                self, ([delivery.event for delivery in batch],), {},
                context_data=self.unpack_message_headers(batch[0].message),
                handle_result=lambda worker, result, exc_info: self._finish(batch, result, exc_info))
        except ContainerBeingKilled:
            for delivery in batch:
                self.queue_consumer.requeue_message(delivery.message)

    def handle_undecodable(self, message: Any, error: Exception) -> None:
        """Put aside what is not JSON."""
        raw = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        self._put_aside(message, raw, dead_queue(self.queue), f"cannot be decoded: {type(error).__name__}", 0)
        self._count("dead")

    def _finish(self, batch: list[Delivery], result: Any, exc_info: Any) -> tuple[Any, Any]:
        error = exc_info[1] if exc_info else None
        if error is None:
            for delivery, is_new in zip(batch, result, strict=True):
                self.queue_consumer.ack_message(delivery.message)
                self._count("handled" if is_new else "duplicate")
        elif len(batch) > 1 and not isinstance(error, OUTCOME_UNKNOWN):
            self._alone.extend(batch)
        else:
            for delivery in batch:
                self._try_later(delivery, exc_info)
        self._handle_next()
        return result, exc_info

    def _try_later(self, delivery: Delivery, exc_info: Any) -> None:
        pauses_s = self.container.settings.EVENT_RETRY_PAUSES_S
        _, body, message = delivery
        error = exc_info[1]
        attempt = int(message.headers.get(ATTEMPT, 0))
        if isinstance(error, OUTCOME_UNKNOWN):  # an outage: no fault of the event's, so no attempt of its own
            log.warning("%s waits: %s", self.queue.name, type(error).__name__)
            self._put_aside(message, body, retry_queue(self.queue, pauses_s[0]), type(error).__name__, attempt)
            self._count("waited")
            return
        attempt += 1
        reason = f"{type(error).__name__} at attempt {attempt}"
        log.error("%s failed: %s", self.queue.name, reason, exc_info=exc_info)
        if attempt <= len(pauses_s):
            self._put_aside(message, body, retry_queue(self.queue, pauses_s[attempt - 1]), reason, attempt)
            self._count("retried")
        else:
            self._put_aside(message, body, dead_queue(self.queue), reason, attempt)
            self._count("dead")

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


def event_handler(event: type[E]) -> Callable[[Callable[[Any, list[E]], list[bool]]], Callable[..., list[bool]]]:
    """Handle events of this type by the decorated method of a service, which gets a list of them."""

    def decorate(function: Callable[[Any, list[E]], list[bool]]) -> Callable[..., list[bool]]:
        @wraps(function)
        def handle(service: Any, events: list[E]) -> list[bool]:
            return function(service, events)

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
