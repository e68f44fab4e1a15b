"""The Nameko container that the services run in."""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from eventlet import Timeout
from nameko.containers import ServiceContainer, get_service_name

from services.kit.config import BadConfiguration, check
from services.kit.db.connecting import with_driver
from services.kit.dns import install
from services.kit.metrics import metrics_of
from services.kit.product import Product
from services.kit.tracing import InheritingPool, tracer_of
from services.kit.web.auth.guard import Guard
from services.kit.web.client import HttpClient
from services.kit.web.entrypoint import Http
from services.kit.web.limits.limits import Limits

log = logging.getLogger(__name__)
T = TypeVar("T")

GC_THRESHOLD = (5_000, 10, 10)  # a request makes some hundred objects that the collector looks at, and few cycles


class Container(ServiceContainer):
    """A service container that refuses to start on a wrong configuration, and drains when it is asked to stop.

    Named by SERVICE_CONTAINER_CLS. On SIGTERM Nameko calls `stop`: each entrypoint takes no more work (see
    `web.Server` and `consumer.QueueConsumer`), the workers finish and acknowledge theirs, then the rest ends.
    """

    product = Product()

    def __init__(self, service_cls: type, config: dict[str, Any]) -> None:
        self.settings = _or_exit(check, config)
        install()
        self.metrics = metrics_of(self.product.name)
        self.tracer = _or_exit(tracer_of, get_service_name(service_cls))
        urls = {key: with_driver(url) for key, url in self.settings.DB_URIS.items()}
        super().__init__(service_cls, {**config, "DB_URIS": urls})
        self._worker_pool = InheritingPool(self.max_workers)
        self.guard = _or_exit(Guard, self.settings)
        self.limits = Limits(self.settings)
        for extension in (*self.subextensions, *self.entrypoints):
            if isinstance(extension, (HttpClient, Http)):
                _or_exit(extension.check, self.settings)

    def start(self) -> None:
        super().start()
        gc.collect()
        gc.freeze()  # what is loaded now stays, so the collector need not look at it again
        gc.set_threshold(*GC_THRESHOLD)

    def stop(self) -> None:
        """Drain, for DRAIN_TIMEOUT_S at the most; what is not done by then is left to recovery and redelivery."""
        try:
            with Timeout(self.settings.DRAIN_TIMEOUT_S, TooSlow()):
                super().stop()
        except TooSlow:
            log.warning("%s: not drained in time", self.service_name)
            self.kill()
        self.tracer.stop()


def _or_exit(check_: Callable[[Any], T], value: Any) -> T:
    """Return what a check returns; end with one line if the configuration is bad."""
    try:
        return check_(value)
    except BadConfiguration as error:
        sys.exit(str(error))


class TooSlow(Exception):
    """The time to drain is over."""
