"""The spans of a batch of events: one for each, which goes on with its trace, and one for the handler, with links."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from services.kit.event import Event
from services.kit.seams import Container
from services.kit.tracing import TRACEPARENT, Kind, Span, note


class Processing:
    """What a handler does with a batch. It is done within `around`, in the worker, and then `end` is called."""

    def __init__(
        self,
        container: Container,
        method: str,
        type_: type[Event],
        events: Sequence[Event],
        headers: Sequence[Mapping[str, Any]],
        attempt: int = 1,
    ) -> None:
        self._tracer = tracer = container.tracer
        self._spans: list[Span] = []
        self._noted: dict[str, str] = {}
        contexts: list[tuple[object, str | None]] = []
        if tracer.is_on:
            destination = f"{type_.SOURCE}.events:{type_.TYPE}"
            attributes: dict[str, str | int | bool] = {
                "messaging.system": "rabbitmq",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": destination,
                "kit.attempt": attempt,
            }
            for event, its in zip(events, headers, strict=True):
                self._noted = {
                    name: str(getattr(event, field))
                    for field, name in container.product.noted.items()
                    if field in type(event).model_fields
                }
                span = tracer.begin(
                    f"process {destination}", Kind.CONSUMER, its.get(TRACEPARENT), attributes=attributes | self._noted
                )
                self._spans.append(span)
                contexts.append((event.about, tracer.context_of(span)))
        self.around = tracer.batch(f"{container.service_name}.{method}", contexts)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have what is logged inside belong to the event, if it is handled alone."""
        if len(self._spans) != 1:
            yield
            return
        with self._tracer.under_way(self._spans[0]):
            for name, value in self._noted.items():
                note(name, value)
            yield

    def end(self, are_new: Sequence[bool] = (), error: BaseException | None = None) -> None:
        """End the spans: each event was new, or found done, or all have failed."""
        for number, span in enumerate(self._spans):
            if error is not None:
                self._tracer.fail(span, error)
            elif not are_new[number]:
                span.set_attribute("kit.duplicate", True)
            span.end()
