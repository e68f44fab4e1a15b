"""The transport of an outbox by HTTP: an event is safe when the other service has answered 200 to its PUT."""

import logging
from collections.abc import Callable, Sequence

import eventlet
from nameko.extensions import Extension
from pydantic import BaseModel

from services.kit.errors import CallFailed, Unavailable
from services.kit.outbox.table import OutgoingEvent
from services.kit.seams import Container
from services.kit.web.client import HttpClient

log = logging.getLogger(__name__)

AT_ONCE = 5  # events that are delivered at a time, so that a slow one delays few others

Route = Callable[[OutgoingEvent], tuple[str, BaseModel] | None]


class HttpTransport(Extension):
    """Delivers each event by a PUT to one other service.

    `route` returns the path and the body for an event, which the receiver carries out once however often it comes, or
    None for an event that the receiver need not know.
    """

    container: Container
    name = "http"

    def __init__(self, target: str, route: Route) -> None:
        self.receiver = target
        self.route = route
        self.client = HttpClient(target)
        self._pool = eventlet.GreenPool(AT_ONCE)
        self._under_way: list[eventlet.greenthread.GreenThread] = []

    def send(self, events: Sequence[OutgoingEvent]) -> None:
        """Begin to deliver events, a few at a time."""
        self._under_way += [self._pool.spawn(self._deliver, event) for event in events]

    def wait_for_confirms(self) -> list[bool]:
        """Wait for the answers. Raise Unavailable only if no event was taken, and the other service is away."""
        under_way, self._under_way = self._under_way, []
        outcomes = [thread.wait() for thread in under_way]
        away = next((one for one in outcomes if isinstance(one, Unavailable)), None)
        if away and True not in outcomes:
            raise away
        return [outcome is True for outcome in outcomes]

    def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        """Deliver events in this thread."""
        outcomes = [self._deliver(event) for event in events]
        if away := next((one for one in outcomes if isinstance(one, Unavailable)), None):
            raise away
        return [outcome is True for outcome in outcomes]

    def _deliver(self, event: OutgoingEvent) -> bool | Unavailable:
        """Return True if the event has arrived, False if it is not taken, or the error that leaves this unknown."""
        try:
            if (notice := self.route(event)) is None:
                return True
            path, body = notice
            with self.container.tracer.span(f"send {event.type}", parent=event.traceparent):
                answer = self.client.call("PUT", path, event.type, body)
            if answer.status != 200:
                log.error("%s answered %d to %s", self.receiver, answer.status, event.type)
            return answer.status == 200
        except CallFailed:
            return False  # somebody should look at it; meanwhile others are delivered
        except Unavailable as error:
            return error
        except Exception:
            log.exception("an event of type %s cannot be delivered", event.type[:50])
            return False
