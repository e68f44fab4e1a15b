"""Traces: what a request sets off, in whichever process and however much later (OpenTelemetry; W3C Trace Context).

They are off, and OpenTelemetry is not imported, unless the standard variables of the environment name a collector:
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. Spans are sent from a bounded queue by a thread of
its own. When the collector is away, or slow, spans are lost and nothing else.

A context travels as a `traceparent`, which is a string: in the headers of HTTP and of AMQP, and in a column of each row
that is to be worked on later, so that the trace goes on after a crash and in another process.

What is done for many at once, a round of `batched` or the events of a handler, is one span with a link to the context
of each; its parent is the first of them. What is made in such a round for one of them, an event above all, goes on with
the trace of that one: it is looked up by what it is about.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Protocol

from eventlet import Timeout

from services.kit.config import BadConfiguration
from services.kit.outage import Outage

TRACEPARENT = "traceparent"
FLUSH_S = 2.0  # for what a service that stops still has to send
SAMPLED = 1  # the bit of the flags at the end of a traceparent
MAX_LINKS = 1024  # of a span, unless OTEL_SPAN_LINK_COUNT_LIMIT says otherwise; the SDK's 128 are fewer than a batch
SAMPLERS = tuple(
    parent + sampler for parent in ("", "parentbased_") for sampler in ("always_on", "always_off", "traceidratio")
)
Attributes = Mapping[str, str | int | bool]


class Kind(IntEnum):
    """What a span is to the other side, with the numbers of OpenTelemetry's SpanKind."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span(Protocol):
    """The span of something that is under way."""

    def set_attribute(self, key: str, value: str | int | bool) -> None: ...

    def add_event(self, name: str) -> None: ...

    def end(self) -> None: ...


class _NoSpan:
    def set_attribute(self, key: str, value: str | int | bool) -> None: ...

    def add_event(self, name: str) -> None: ...

    def end(self) -> None: ...


NO_SPAN = _NoSpan()
_span: ContextVar[Any] = ContextVar("span", default=None)
_noted: ContextVar[Mapping[str, str]] = ContextVar("noted", default=MappingProxyType({}))
_contexts: ContextVar[Mapping[str, str]] = ContextVar("contexts", default=MappingProxyType({}))


def traceparent(about: object = None) -> str | None:
    """Return the context of what is under way; in a batch, that of the item which is `about` this. None if off."""
    if (contexts := _contexts.get()) and (known := contexts.get(str(about))):
        return known
    span = _span.get()
    return None if span is None else _context_of(span)


def _context_of(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def ended(span: Span) -> Iterator[None]:
    """End `span` when what is inside is over."""
    try:
        yield
    finally:
        span.end()


@contextmanager
def going_on(about: object, context: str | None) -> Iterator[None]:
    """Have what is made inside `about` this go on with `context`, if there is one."""
    token = _contexts.set({**_contexts.get(), str(about): context} if context else _contexts.get())
    try:
        yield
    finally:
        _contexts.reset(token)


def headers(context: str | None = None) -> dict[str, str]:
    """Return the headers of a request or a message that pass on `context`, or else that of what is under way."""
    passed_on = context or traceparent()
    return {TRACEPARENT: passed_on} if passed_on else {}


def note(name: str, value: object) -> None:
    """Set an attribute of the span under way, if there is one; the lines of the log have it from now on, too."""
    if (span := _span.get()) is not None:
        span.set_attribute(name, str(value))
        _noted.set({**_noted.get(), name: str(value)})


def noted() -> Mapping[str, str]:
    """Return what was noted of what is under way."""
    return _noted.get()


def note_event(name: str) -> None:
    """Note in the span under way, if there is one, that something has happened."""
    if (span := _span.get()) is not None:
        span.add_event(name)


def is_recording() -> bool:
    """Return whether the span under way is kept: there is one, and its trace is sampled."""
    return (span := _span.get()) is not None and span.is_recording()


def trace_id() -> str | None:
    """Return the id of the trace of what is under way, for the log."""
    known = traceparent()
    return known and known.split("-")[1]


class Tracer:
    """Makes the spans of one service: none, as tracing is off."""

    is_on = False

    def begin(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: str | None = None,
        links: Iterable[str] = (),
        attributes: Attributes | None = None,
    ) -> Span:
        """Return a new span, which `end` ends. Without a `parent` it goes on with what is under way, if anything is."""
        return NO_SPAN

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: str | None = None,
        links: Iterable[str] = (),
        attributes: Attributes | None = None,
    ) -> AbstractContextManager[Span]:
        """Do what is inside in a new span; see `begin`. An error that leaves it marks the span as failed."""
        return nullcontext(NO_SPAN)

    def batch(
        self,
        name: str,
        contexts: Sequence[tuple[object, str | None]],
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
    ) -> AbstractContextManager[Span]:
        """Do what is inside in one span for many: `contexts` says what each is about, and with which trace it goes on.

        An item without a context of its own goes on with what is under way.
        """
        return nullcontext(NO_SPAN)

    def under_way(self, span: Span) -> AbstractContextManager[None]:
        """Make `span` what is under way inside."""
        return nullcontext()

    def context_of(self, span: Span) -> str | None:
        """Return the context with which others go on with this span; None if tracing is off."""
        return None

    def fail(self, span: Span, error: BaseException) -> None:
        """Mark a span as failed."""

    def stop(self) -> None:
        """Send what is left, for FLUSH_S at the most."""


class OpenTelemetry(Tracer):
    """Makes spans, and sends them to the collector."""

    is_on = True

    def __init__(self, service: str, processor: Any = None) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if processor is None:
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            processor = BatchSpanProcessor(_exporter(service))
        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or service}),
            span_limits=SpanLimits(max_links=int(os.environ.get("OTEL_SPAN_LINK_COUNT_LIMIT") or MAX_LINKS)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("services.kit")

    def begin(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: str | None = None,
        links: Iterable[str] = (),
        attributes: Attributes | None = None,
    ) -> Span:
        span = _span.get()
        if context := self._context(parent):
            span = self._api.NonRecordingSpan(context)
        begun: Span = self._tracer.start_span(
            name,
            self._api.set_span_in_context(span or self._api.INVALID_SPAN),
            self._api.SpanKind(kind),
            attributes,
            [self._api.Link(context) for link in links if (context := self._context(link))],
        )
        return begun

    def _context(self, traceparent: Any) -> Any:
        """Return OpenTelemetry's form of a context, or None; what is none is ignored, as the W3C says.

        The header of a message may be anything that AMQP can carry.
        """
        if not traceparent or not isinstance(traceparent, str):
            return None
        carrier = {TRACEPARENT: traceparent}
        context = self._api.get_current_span(self._propagator.extract(carrier)).get_span_context()
        return context if context.is_valid else None

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: str | None = None,
        links: Iterable[str] = (),
        attributes: Attributes | None = None,
    ) -> Iterator[Span]:
        span = self.begin(name, kind, parent, links, attributes)
        try:
            with self.under_way(span):
                yield span
        except BaseException as error:
            self.fail(span, error)
            raise
        finally:
            span.end()

    @contextmanager
    def batch(
        self,
        name: str,
        contexts: Sequence[tuple[object, str | None]],
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
    ) -> Iterator[Span]:
        known = {str(about): context or traceparent(about) for about, context in contexts}
        links = list(dict.fromkeys(one for one in known.values() if one))
        parent = next((one for one in links if int(one[-2:], 16) & SAMPLED), None)
        if parent is None:  # the span is not kept, so nobody follows its links
            parent, links = (links[0] if links else None), []
        token = _contexts.set({**_contexts.get(), **{about: one for about, one in known.items() if one}})
        try:
            with self.span(name, kind, parent, links, {"batch.size": len(contexts), **(attributes or {})}) as span:
                yield span
        finally:
            _contexts.reset(token)

    @contextmanager
    def under_way(self, span: Span) -> Iterator[None]:
        outer, outer_notes = _span.set(span), _noted.set(_noted.get())
        try:
            yield
        finally:
            _span.reset(outer)
            _noted.reset(outer_notes)

    def context_of(self, span: Any) -> str | None:
        return _context_of(span)

    def fail(self, span: Any, error: BaseException) -> None:
        span.set_status(self._api.StatusCode.ERROR)
        span.set_attribute("error.type", type(error).__name__)

    def stop(self) -> None:
        with Timeout(FLUSH_S, False):
            self._provider.shutdown()


def _exporter(service: str) -> Any:
    """Return what sends spans to the collector, and logs once that it is away, and once that it is back."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    outage = Outage(f"traces of {service}", "the collector")

    class Exporter(OTLPSpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            result: SpanExportResult = super().export(spans)
            if result is SpanExportResult.SUCCESS:
                outage.end()
            else:
                outage.begin("spans are lost")
            return result

    return Exporter()


def tracer_of(service: str) -> Tracer:
    """Return the tracer that the environment asks for. Raises BadConfiguration, which names the variable."""
    endpoint = _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or _variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = _one_of("OTEL_TRACES_EXPORTER", ("otlp", "none"))
    if not endpoint or exporter == "none" or _variable("OTEL_SDK_DISABLED").lower() == "true":
        return Tracer()
    if not re.match(r"https?://[^/]", endpoint):
        raise BadConfiguration("OTEL_EXPORTER_OTLP_ENDPOINT: should be a URL like http://collector:4318")
    _one_of("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/protobuf",))
    _one_of("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ("http/protobuf",))
    _one_of("OTEL_TRACES_SAMPLER", SAMPLERS)
    if not re.fullmatch(r"(0|1|0?\.\d+|1\.0*|0\.)?", _variable("OTEL_TRACES_SAMPLER_ARG")):
        raise BadConfiguration("OTEL_TRACES_SAMPLER_ARG: should be a share from 0 to 1, like 0.01")
    return OpenTelemetry(service)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _one_of(name: str, allowed: Sequence[str]) -> str:
    value = _variable(name)
    if value and value not in allowed:
        raise BadConfiguration(f"{name}: should be one of {', '.join(allowed)}")
    return value
