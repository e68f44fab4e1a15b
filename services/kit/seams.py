"""What the kit uses of Nameko's and kombu's objects, which carry no types themselves."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from services.kit.config import Settings
from services.kit.metrics import Metrics
from services.kit.product import Product
from services.kit.tracing import Span, Tracer
from services.kit.web.auth.guard import Guard
from services.kit.web.limits.limits import Limits


class Thread(Protocol):
    """A green thread of a container."""

    def wait(self) -> object: ...

    def kill(self) -> None: ...


class Container(Protocol):
    """The container of a service, as its extensions see it."""

    service_name: str
    settings: Settings
    metrics: Metrics
    tracer: Tracer
    product: Product
    guard: Guard
    limits: Limits
    config: Mapping[str, Any]
    accept: Collection[str]
    dependencies: Collection[Any]
    subextensions: Collection[Any]

    def spawn_managed_thread(self, fn: Callable[[], object], identifier: str | None = None) -> Thread:
        """Run `fn` in a green thread that ends with the container. An error in it ends the container."""

    def spawn_worker(
        self,
        entrypoint: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context_data: dict[str, Any] | None = None,
        handle_result: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
    ) -> object:
        """Run the method of `entrypoint` in a worker, as soon as one is free, then `handle_result` on its outcome."""


class Incoming(Protocol):
    """A message that the broker has delivered: kombu's."""

    body: bytes | str
    headers: dict[str, Any]
    properties: dict[str, Any]
    delivery_info: dict[str, Any]
    content_type: str | None
    content_encoding: str | None
    channel: Any
    span: Span  # set by us, while the message is worked on

    def ack(self) -> None: ...

    def requeue(self) -> None: ...
