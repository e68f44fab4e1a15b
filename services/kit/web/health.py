"""Health and metrics. They are not answered by entrypoints, so they answer even when every worker is busy."""

import json
import logging
from collections.abc import Callable
from typing import Any

from eventlet import Timeout
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.wrappers import Request, Response

from services.kit.amqp.watch import BrokerWatch
from services.kit.db.connecting import why_away
from services.kit.db.database import Database
from services.kit.errors import DatabaseAway, Unavailable
from services.kit.seams import Container
from services.kit.web.problems import RETRY_AFTER, Problem

log = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 2


class Health:
    """Answers `/health/live`, `/health/ready` and `/metrics` of one service."""

    def __init__(self, container: Container) -> None:
        self.is_stopping = False
        self._container = container
        self._broker = next((one for one in container.subextensions if isinstance(one, BrokerWatch)), None)
        self.answers = {"/health/live": live, "/health/ready": self.ready, "/metrics": self.show_metrics}

    def ready(self, request: Request | None = None) -> Response:
        """Return 200 if the service can work: it is not about to stop, and its database, checked now, takes writes.

        Without the broker it still can, so the state of the broker, as of the last check, is only reported, and only
        by a service that uses one.
        """
        if self.is_stopping:
            return self._not_ready("the service is stopping")
        if why := _failure(self._check_database):
            log.warning("not ready: the database: %s", why)
            return self._not_ready("the database does not answer, or cannot be written to")
        broker = {"broker": self._broker.state} if self._broker else {}
        return _json({"status": "ready"} | broker)

    def show_metrics(self, request: Request | None = None) -> Response:
        """Return the metrics of this process, for Prometheus. Whether the database takes writes is checked now."""
        self.measure()
        return metrics_now()

    def measure(self) -> None:
        """Check whether the database takes writes, and set the metric that tells."""
        up = self._container.metrics.database_up.labels(self._container.service_name)
        up.set(not _failure(self._check_database))

    def _not_ready(self, why: str) -> Response:
        return Problem(503, "not-ready", why, headers=RETRY_AFTER).response(self._container.product.name)

    def _check_database(self) -> None:
        for extension in self._container.dependencies:
            if isinstance(extension, Database):
                extension.check_writable()


def live(request: Request) -> Response:
    """Return 200: the process runs, and its event loop turns."""
    return _json({"status": "live"})


def metrics_now() -> Response:
    """Return the metrics of this process as they are."""
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _failure(check: Callable[[], None]) -> str:
    """Return what is wrong, by a check, or nothing if it succeeded in time."""
    try:
        with Timeout(HEALTH_TIMEOUT_S, Unavailable("no answer")):
            check()
    except DatabaseAway as error:
        return f"{type(error).__name__}: {why_away(error)}"
    except Exception as error:
        return type(error).__name__
    return ""


def _json(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), content_type="application/json")
