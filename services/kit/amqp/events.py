"""The entrypoint for events: handled in batches, and acknowledged when they are handled or safe in the inbox.

Nameko acknowledges an event even when its handler raised, so the event would be lost. This handler commits a failed
event to the inbox (`kit/inbox`), and only then acknowledges it. While the service's own database is away nothing can
be committed, so the events are held without an acknowledgement: the broker sends no more than EVENT_BATCH of them,
consuming pauses by itself, and no attempt is counted.

What a crash leaves: messages that are not acknowledged. They are delivered again, and found to be done.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import eventlet
import nameko.events
from nameko.exceptions import ContainerBeingKilled

from services.kit.amqp.consumer import QueueConsumer
from services.kit.amqp.decoding import Unreadable, event_in, event_of, failed_event, undecodable
from services.kit.amqp.processing import Processing
from services.kit.amqp.queues import arguments_of
from services.kit.errors import OUTCOME_UNKNOWN
from services.kit.event import Event
from services.kit.inbox.provider import Inbox
from services.kit.inbox.table import DueMessage
from services.kit.outage import LONGEST_PAUSE_S, next_pause_s
from services.kit.seams import Container, Incoming

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Event)


class Delivery(NamedTuple):
    """A message with the event in it, or with the reason why it cannot be read."""

    message: Incoming
    event: Event | None
    reason: str = ""


class EventHandler(nameko.events.EventHandler):
    """Nameko's entrypoint for events, with batches, an inbox for events that fail, and events of the declared type.

    The method gets a list of events: all that came while it was busy with the list before. It returns for each whether
    it was new; False counts as a duplicate. When the method fails, each event of the list is handled again alone;
    if the outcome is unknown, the list is held until the database is back.
    """

    container: Container
    queue_consumer = QueueConsumer()
    inbox: Inbox

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self._waiting: list[Delivery] = []
        self._alone: deque[Delivery] = deque()  # unreadable, or failed in a batch
        self._is_busy = False  # a worker handles a batch, or one is held in an outage
        self._is_stopping = False
        self._pause_s = 0.0  # the last pause of an outage
        super().__init__(event.SOURCE, event.TYPE)

    def setup(self) -> None:
        super().setup()
        self.queue.queue_arguments = arguments_of(self.container.settings.QUEUE_TYPE)
        [self.inbox] = [one for one in self.container.dependencies if isinstance(one, Inbox)]
        self.inbox.handlers[self.method_name] = self

    def stop(self) -> None:
        """Take no more events. Those that are held in an outage are left to the broker."""
        self._is_stopping = True
        self.inbox.stop_leasing()
        super().stop()

    def handle_message(self, body: Any, message: Incoming) -> None:
        """Queue a message, and have a worker handle it unless one is busy."""
        try:
            self._waiting.append(Delivery(message, event_in(body, self.event)))
        except Unreadable as error:
            self._alone.append(Delivery(message, None, str(error)))
        self._handle_next_if_idle()

    def handle_undecodable(self, message: Incoming, error: Exception) -> None:
        """Queue a message that is not JSON, to be kept as a dead letter."""
        self._alone.append(Delivery(message, None, undecodable(error)))
        self._handle_next_if_idle()

    def _handle_next_if_idle(self) -> None:
        if not self._is_busy:
            self._handle_next()

    def _handle_next(self) -> None:
        """Have a worker handle up to EVENT_BATCH of the waiting events. Those to be handled alone come first."""
        self._drop_lost()
        self._is_busy = bool(self._alone or self._waiting)
        if not self._is_busy:
            self._end_outage()
            return
        if self._alone:
            batch = [self._alone.popleft()]
        else:
            most = self.container.settings.EVENT_BATCH
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if batch[0].event is None:
            self.container.spawn_managed_thread(partial(self._keep_unreadable, batch[0]))
            return
        events = [delivery.event for delivery in batch if delivery.event is not None]
        processing = self._processing(events, [delivery.message.headers for delivery in batch])
        try:
            self.container.spawn_worker(
                self,
                (events, processing),
                {},
                context_data=self.unpack_message_headers(batch[0].message),
                handle_result=lambda worker, result, exc_info: self._finish(batch, processing, result, exc_info),
            )
        except ContainerBeingKilled:
            pass  # the broker delivers unacknowledged messages again

    def _processing(
        self, events: Sequence[Event], headers: Sequence[Mapping[str, Any]], attempt: int = 1
    ) -> Processing:
        return Processing(self.container, self.method_name, self.event, events, headers, attempt)

    def _drop_lost(self) -> None:
        """Drop messages that came on a lost connection: the broker delivers them again."""
        is_lost = self.queue_consumer.is_lost
        self._waiting = [one for one in self._waiting if not is_lost(one.message)]
        self._alone = deque(one for one in self._alone if not is_lost(one.message))

    def _finish(self, batch: list[Delivery], processing: Processing, result: Any, exc_info: Any) -> tuple[Any, Any]:
        error = exc_info[1] if exc_info else None
        processing.end(result, error)
        if error is None:
            self._end_outage()
            for delivery, is_new in zip(batch, result, strict=True):
                self.queue_consumer.ack_message(delivery.message)
                self._count("handled" if is_new else "duplicate")
        elif isinstance(error, OUTCOME_UNKNOWN):
            self._hold(batch, error)
            return result, exc_info
        elif len(batch) > 1:
            self._alone.extend(batch)
        elif not self._keep(batch[0], self._failure(processing, exc_info, 1), 1):
            return result, exc_info
        self._handle_next()
        return result, exc_info

    def _failure(self, processing: Processing, exc_info: Any, attempt: int) -> str:
        reason = f"{type(exc_info[1]).__name__} at attempt {attempt}"
        with processing.alone():
            log.error("%s failed: %s", self.queue.name, reason, exc_info=exc_info)
        return reason

    def _keep_unreadable(self, delivery: Delivery) -> None:
        """Keep a message that cannot be read, as a dead letter."""
        log.error("%s: %s", self.queue.name, delivery.reason)
        if self._keep(delivery, delivery.reason, 0):
            self._handle_next()

    def _keep(self, delivery: Delivery, reason: str, attempts: int) -> bool:
        """Commit a message to the inbox, then acknowledge it; return False if it is held, as the database is away.

        What a crash in between leaves: the row, and the message with the broker. The second delivery finds the row.
        """
        message, event, _ = delivery
        failed = failed_event(message, event, attempts, reason)
        try:
            self.inbox.keep(self.method_name, failed, self._pause_after(attempts))
        except OUTCOME_UNKNOWN as error:
            self._hold([delivery], error)
            return False
        except Exception:
            log.exception("%s: the inbox does not take an event, which is held", self.queue.name)
            self.container.spawn_managed_thread(partial(self._try_again_alone, delivery))
            return True
        self._end_outage()
        self.queue_consumer.ack_message(message)
        self._count("dead" if self._pause_after(attempts) is None else "retried")
        return True

    def _pause_after(self, attempts: int) -> float | None:
        """Return the pause after so many failed attempts.

        None if there is no further attempt: after the last pause, or for an unreadable message (`attempts` is 0).
        """
        pauses_s = self.container.settings.EVENT_RETRY_PAUSES_S
        return pauses_s[attempts - 1] if 0 < attempts <= len(pauses_s) else None

    def _hold(self, batch: list[Delivery], error: BaseException) -> None:
        """Keep a batch unacknowledged until the database is back: until then it can be neither handled nor kept."""
        self.inbox.outage.begin(type(error).__name__, self.method_name)
        if len(batch) == 1:
            self._alone.appendleft(batch[0])
        else:
            self._waiting[:0] = batch
        self._pause_s = next_pause_s(self._pause_s)
        self.container.spawn_managed_thread(self._resume)

    def _resume(self) -> None:
        eventlet.sleep(self._pause_s)
        if not self._is_stopping:
            self._handle_next()

    def _end_outage(self) -> None:
        self._pause_s = 0.0
        self.inbox.outage.end(self.method_name)

    def _try_again_alone(self, delivery: Delivery) -> None:
        """Handle an event that the inbox did not take once more, after a pause in which others are handled."""
        eventlet.sleep(LONGEST_PAUSE_S)
        if not self._is_stopping:
            self._alone.append(delivery)
            self._handle_next_if_idle()

    def handle_again(self, due: DueMessage) -> None:
        """Have a worker handle an event of the inbox.

        What a crash leaves: the row, whose event is handled again when the lease has ended.
        """
        try:
            event = event_of(due, self.event, self.container.accept)
        except Unreadable as error:
            reason = str(error)
            self._end_attempt(lambda: self.inbox.failed(due, due.attempts, reason, None), "dead")
            return
        processing = self._processing([event], [due.headers], due.attempts + 1)
        try:
            self.container.spawn_worker(
                self,
                ([event], processing),
                {},
                context_data=self.unpack_message_headers(SimpleNamespace(headers=due.headers)),
                handle_result=lambda worker, result, exc_info: self._finish_again(due, processing, result, exc_info),
            )
        except ContainerBeingKilled:
            self.inbox.free_slot()

    def _finish_again(self, due: DueMessage, processing: Processing, result: Any, exc_info: Any) -> tuple[Any, Any]:
        error = exc_info[1] if exc_info else None
        processing.end(result, error)
        if error is None:
            self._end_attempt(lambda: self.inbox.succeeded(due), "handled" if result[0] else "duplicate")
        elif isinstance(error, OUTCOME_UNKNOWN):
            self.inbox.free_slot()  # no attempt is counted; the event is due again when the lease has ended
        else:
            attempts = due.attempts + 1
            reason, pause_s = self._failure(processing, exc_info, attempts), self._pause_after(attempts)
            self._end_attempt(
                lambda: self.inbox.failed(due, attempts, reason, pause_s), "dead" if pause_s is None else "retried"
            )
        return result, exc_info

    def _end_attempt(self, record: Callable[[], None], outcome: str) -> None:
        """Record what became of an attempt. If that fails, the event is due again when the lease has ended."""
        try:
            record()
            self._count(outcome)
        except OUTCOME_UNKNOWN:
            pass  # the inbox's thread meets the outage too, and logs it
        except Exception:
            log.exception("%s: the inbox cannot record an attempt", self.queue.name)
        finally:
            self.inbox.free_slot()

    def _count(self, outcome: str) -> None:
        self.container.metrics.events_handled.labels(self.container.service_name, self.event.TYPE, outcome).inc()


def event_handler(event: type[E]) -> Callable[[Callable[[Any, list[E]], list[bool]]], Callable[..., list[bool]]]:
    """Handle events of a type by the decorated method of a service, which takes a list. See EventHandler."""

    def decorate(function: Callable[[Any, list[E]], list[bool]]) -> Callable[..., list[bool]]:
        @wraps(function)
        def handle(service: Any, events: list[E], processing: Processing | None = None) -> list[bool]:
            with processing.around if processing else nullcontext():
                return function(service, events)

        return EventHandler.decorator(event)(handle)

    return decorate
