"""The Nameko container that the services run in."""

import gc
import logging
import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

import eventlet
from eventlet import GreenPool, Timeout
from nameko.containers import ServiceContainer, get_service_name

from services.kit.config import BadConfiguration, check
from services.kit.db.connecting import with_driver
from services.kit.dns import install
from services.kit.metrics import metrics_of
from services.kit.product import Product
from services.kit.tracing import tracer_of
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


class InheritingPool(GreenPool):
    """A pool whose green threads go on with the context of who spawned them; eventlet's begin without one.

    One that spawns its successor while the pool is full runs beside it until it ends. eventlet's would run the
    successor within it, and the next one within that, until the stack is too deep.
    """

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        inherited = copy_context().run
        if not (self.sem.locked() and eventlet.getcurrent() in self.coroutines_running):
            return super().spawn(inherited, function, *args, **kwargs)
        self.sem.counter -= 1  # without waiting for it: `_spawn_done` gives one back for each
        successor = eventlet.spawn(inherited, function, *args, **kwargs)
        self.coroutines_running.add(successor)
        successor.link(self._spawn_done)
        return successor


def _or_exit(check_: Callable[[Any], T], value: Any) -> T:
    """Return what a check returns; end with one line if the configuration is bad."""
    try:
        return check_(value)
    except BadConfiguration as error:
        sys.exit(str(error))


class TooSlow(Exception):
    """The time to drain is over."""
