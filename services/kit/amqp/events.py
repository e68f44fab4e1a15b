"""Events in: handled in batches, and acknowledged when they are handled or safe in the inbox.

Nameko acknowledges an event even when its handler raised, so the event would be lost. Ours commits a failed event to
the inbox (see `inbox.py`), and only then acknowledges it. While the service's own database is away nothing can be
committed, so the events are held unacknowledged: the broker sends no more than EVENT_BATCH of them, consuming pauses
by itself, and no attempt is counted. What a crash leaves unacknowledged is delivered again, and found to be done.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import eventlet
import nameko.events
from kombu.serialization import loads, prepare_accept_content
from nameko.exceptions import ContainerBeingKilled
from pydantic import ValidationError

from services.kit.amqp.consumer import QueueConsumer
from services.kit.event import Event
from services.kit.inbox.provider import LONGEST_PAUSE_S, Due, Failed, Inbox, is_outage, longer

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Event)


class Unreadable(Exception):
    """What came is no event of the declared type; the message says why."""


class Delivery(NamedTuple):
    """A message of the broker's with its event, or with the reason why there is none in it."""

    message: Any
    event: Event | None
    reason: str = ""


class EventHandler(nameko.events.EventHandler):
    """Nameko's entrypoint for events, with batches, an inbox for what fails, and events as their declared type.

    The method gets a list of events, all that came while it was busy with the list before, and says of each
    whether it was new: False counts as a duplicate. When it fails, each event is handled again alone.
    """

    queue_consumer = QueueConsumer()
    inbox: Inbox

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self._waiting: list[Delivery] = []
        self._alone: deque[Delivery] = deque()  # what is unreadable, and what failed together with others
        self._is_busy = False  # a worker handles some, or they are held in an outage
        self._is_stopping = False
        self._pause_s = 0.0  # the last one of an outage
        super().__init__(event.SOURCE, event.TYPE)

    def setup(self) -> None:
        super().setup()
        [self.inbox] = [one for one in self.container.dependencies if isinstance(one, Inbox)]
        self.inbox.handlers[self.method_name] = self

    def stop(self) -> None:
        """Take no more; what is held in an outage is left to the broker."""
        self._is_stopping = True
        self.inbox.stop_taking()
        super().stop()

    def handle_message(self, body: Any, message: Any) -> None:
        try:
            self._waiting.append(Delivery(message, self._event_in(body)))
        except Unreadable as error:
            self._alone.append(Delivery(message, None, str(error)))
        self._go_on()

    def handle_undecodable(self, message: Any, error: Exception) -> None:
        """Take what is not JSON."""
        self._alone.append(Delivery(message, None, _undecodable(error)))
        self._go_on()

    def _event_in(self, body: Any) -> Event:
        try:
            return self.event.model_validate(body)
        except ValidationError as error:
            raise Unreadable(f"no {self.event.__name__}: {_where(error)}") from None

    def _go_on(self) -> None:
        if not self._is_busy:
            self._handle_next()

    def _handle_next(self) -> None:
        """Have a worker handle what waits, up to EVENT_BATCH at a time; what is to be handled alone comes first."""
        self._forget_what_comes_again()
        self._is_busy = bool(self._alone or self._waiting)
        if not self._is_busy:
            self._note_no_outage()
            return
        if self._alone:
            batch = [self._alone.popleft()]
        else:
            most = self.container.settings.EVENT_BATCH
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if batch[0].event is None:
            self.container.spawn_managed_thread(partial(self._bury, batch[0]))
            return
        try:
            self.container.spawn_worker(
                self,
                ([delivery.event for delivery in batch],),
                {},
                context_data=self.unpack_message_headers(batch[0].message),
                handle_result=lambda worker, result, exc_info: self._finish(batch, result, exc_info),
            )
        except ContainerBeingKilled:
            pass  # the broker delivers again what is not acknowledged

    def _forget_what_comes_again(self) -> None:
        """Drop what came on a connection that is lost: the broker delivers it again."""
        comes_again = self.queue_consumer.is_lost
        self._waiting = [one for one in self._waiting if not comes_again(one.message)]
        self._alone = deque(one for one in self._alone if not comes_again(one.message))

    def _finish(self, batch: list[Delivery], result: Any, exc_info: Any) -> tuple[Any, Any]:
        error = exc_info[1] if exc_info else None
        if error is None:
            self._note_no_outage()
            for delivery, is_new in zip(batch, result, strict=True):
                self.queue_consumer.ack_message(delivery.message)
                self._count("handled" if is_new else "duplicate")
        elif is_outage(error):
            self._hold(batch, error)
            return result, exc_info
        elif len(batch) > 1:
            self._alone.extend(batch)
        elif not self._keep(batch[0], self._failure(exc_info, 1), 1):
            return result, exc_info
        self._handle_next()
        return result, exc_info

    def _failure(self, exc_info: Any, attempt: int) -> str:
        reason = f"{type(exc_info[1]).__name__} at attempt {attempt}"
        log.error("%s failed: %s", self.queue.name, reason, exc_info=exc_info)
        return reason

    def _bury(self, delivery: Delivery) -> None:
        """Make a dead letter of what cannot be read."""
        log.error("%s: %s", self.queue.name, delivery.reason)
        if self._keep(delivery, delivery.reason, 0):
            self._handle_next()

    def _keep(self, delivery: Delivery, reason: str, attempts: int) -> bool:
        """Commit a delivery to the inbox, then acknowledge it; False if consuming is paused as that is impossible.

        A death in between leaves it with the broker too, and the row is found when it is delivered again.
        """
        message, event, _ = delivery
        raw = _raw(message)
        key = str(event.event_id) if event else f"sha256:{hashlib.sha256(raw).hexdigest()}"
        failed = Failed(key, raw, message.content_type, message.content_encoding, message.headers, attempts, reason)
        try:
            self.inbox.keep(self.method_name, failed, self._pause_after(attempts))
        except Exception as error:
            if is_outage(error):
                self._hold([delivery], error)
                return False
            log.exception("%s: the inbox does not take an event, which is held", self.queue.name)
            self.container.spawn_managed_thread(partial(self._try_again_alone, delivery))
            return True
        self._note_no_outage()
        self.queue_consumer.ack_message(message)
        self._count("dead" if self._pause_after(attempts) is None else "retried")
        return True

    def _pause_after(self, attempts: int) -> float | None:
        """How long to wait after so many failed attempts; None to give up, as for what cannot be read."""
        pauses_s: list[float] = self.container.settings.EVENT_RETRY_PAUSES_S
        return pauses_s[attempts - 1] if 0 < attempts <= len(pauses_s) else None

    def _hold(self, batch: list[Delivery], error: BaseException) -> None:
        """Keep a batch unacknowledged until the database is back: nothing of it can be handled, or put anywhere."""
        self.inbox.outage.begins(self.method_name, error)
        if len(batch) == 1:
            self._alone.appendleft(batch[0])
        else:
            self._waiting[:0] = batch
        self._pause_s = longer(self._pause_s)
        self.container.spawn_managed_thread(self._resume)

    def _resume(self) -> None:
        eventlet.sleep(self._pause_s)
        if not self._is_stopping:
            self._handle_next()

    def _note_no_outage(self) -> None:
        self._pause_s = 0.0
        self.inbox.outage.ends(self.method_name)

    def _try_again_alone(self, delivery: Delivery) -> None:
        """Handle what the inbox did not take once more, later; meanwhile the others go on."""
        eventlet.sleep(LONGEST_PAUSE_S)
        if not self._is_stopping:
            self._alone.append(delivery)
            self._go_on()

    def handle_again(self, row: Due) -> None:
        """Have a worker handle an event of the inbox; what a death leaves is handled again when its lease is over."""
        try:
            event = self._event_of(row)
        except Unreadable as error:
            reason = str(error)
            self._record(lambda: self.inbox.failed(row, row.attempts, reason, None), "dead")
            return
        try:
            self.container.spawn_worker(
                self,
                ([event],),
                {},
                context_data=self.unpack_message_headers(SimpleNamespace(headers=row.headers)),
                handle_result=lambda worker, result, exc_info: self._finish_again(row, result, exc_info),
            )
        except ContainerBeingKilled:
            self.inbox.left()

    def _event_of(self, row: Due) -> Event:
        try:
            body = loads(
                row.body, row.content_type, row.content_encoding, accept=prepare_accept_content(self.container.accept)
            )
        except Exception as error:
            raise Unreadable(_undecodable(error)) from None
        return self._event_in(body)

    def _finish_again(self, row: Due, result: Any, exc_info: Any) -> tuple[Any, Any]:
        error = exc_info[1] if exc_info else None
        if error is None:
            self._record(lambda: self.inbox.succeeded(row), "handled" if result[0] else "duplicate")
        elif is_outage(error):
            self.inbox.left()  # no fault of the event's: it is due again when its lease is over
        else:
            attempts = row.attempts + 1
            reason, pause_s = self._failure(exc_info, attempts), self._pause_after(attempts)
            self._record(
                lambda: self.inbox.failed(row, attempts, reason, pause_s), "dead" if pause_s is None else "retried"
            )
        return result, exc_info

    def _record(self, record: Callable[[], None], outcome: str) -> None:
        try:
            record()
            self._count(outcome)
        except Exception as error:  # it is due again when its lease is over
            if not is_outage(error):
                log.exception("%s: the inbox cannot record an attempt", self.queue.name)
        finally:
            self.inbox.left()

    def _count(self, outcome: str) -> None:
        self.container.metrics.events_handled.labels(self.container.service_name, self.event.TYPE, outcome).inc()


def event_handler(event: type[E]) -> Callable[[Callable[[Any, list[E]], list[bool]]], Callable[..., list[bool]]]:
    """Handle events of this type by the decorated method of a service, which gets a list of them."""

    def decorate(function: Callable[[Any, list[E]], list[bool]]) -> Callable[..., list[bool]]:
        @wraps(function)
        def handle(service: Any, events: list[E]) -> list[bool]:
            return function(service, events)

        return EventHandler.decorator(event)(handle)

    return decorate


def _raw(message: Any) -> bytes:
    """The body as it came; the broker of embedded mode has it as text."""
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)


def _undecodable(error: Exception) -> str:
    return f"cannot be decoded: {type(error).__name__}"


def _where(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]) + ": " + first["msg"]
