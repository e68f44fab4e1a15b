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
        self.container.metrics.broker_up.labels(self.container.service_name).set(self.is_up)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.kill()

    kill = stop
