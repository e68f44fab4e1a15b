"""Whether the broker answers, for those who ask: readiness, metrics, the log."""

import logging
from typing import Any

import eventlet
from eventlet import Timeout
from nameko.extensions import SharedExtension

from services.kit.amqp.publisher import Publisher
from services.kit.errors import Unavailable
from services.kit.seams import Container

log = logging.getLogger(__name__)

TIMEOUT_S = 2
EVERY_S = 2


class BrokerWatch(SharedExtension):
    """Checks again and again whether the broker answers, so that no request has to wait for that.

    Whatever uses the broker has one; a service without it does not depend on a broker.
    """

    container: Container
    publisher = Publisher()
    is_up = False
    is_refusing = False  # it answers, and refuses what we consume from
    _thread: Any = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = self.container.spawn_managed_thread(self._run, identifier="broker watch")

    def _run(self) -> None:
        while True:
            self.check()
            eventlet.sleep(EVERY_S)

    def check(self) -> None:
        """Check once, and report a change."""
        try:
            with Timeout(TIMEOUT_S, Unavailable("no answer")):
                self.publisher.check()
            why = ""
        except Exception as error:
            why = type(error).__name__
        if self.is_up and why:
            log.warning("the broker is away: %s", why)
        elif not self.is_up and not why:
            log.info("the broker answers")
        self.is_up = not why
        self._report()

    @property
    def state(self) -> str:
        return "away" if not self.is_up else "refusing" if self.is_refusing else "up"

    def note_refusal(self, error: Exception) -> None:
        """Note that the broker lets us consume nothing, as long as somebody has not mended it."""
        self.is_refusing = True
        self.publisher.note_refusal(str(error), type(error).__name__)
        self._report()

    def note_consuming(self) -> None:
        """Note that the broker lets us consume."""
        self.is_refusing = False
        self._report()

    def _report(self) -> None:
        self.container.metrics.broker_up.labels(self.container.service_name).set(self.state == "up")

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.kill()

    kill = stop
