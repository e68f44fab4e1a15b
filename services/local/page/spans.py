"""Spans as the page shows them: read from OTLP, checked, and kept in a ring of the newest."""

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from eventlet.event import Event as News
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.shop import SERVICES

Plain = dict[str, Any]

KEPT = 10_000  # spans, of some 800 orders; the browser keeps as many
LONGEST_TEXT = 200
MOST_ATTRIBUTES = 32
MOST_LINKS = 1024
KINDS = ("internal", "internal", "server", "client", "producer", "consumer")  # by the numbers of OTLP
NANOSECONDS = 1e6  # in a millisecond
ERROR = 2  # OTLP's status
LONGEST_MS = 86_400_000.0


class Nonsense(ValueError):
    """A span that cannot be true; the message is a constant that says why."""


def read(request: ExportTraceServiceRequest) -> tuple[list[Plain], Counter[str]]:
    """Return the spans of a request as plain values, and how many were dropped, by the reason."""
    spans: list[Plain] = []
    dropped: Counter[str] = Counter()
    for resource in request.resource_spans:
        about = _attributes(resource.resource.attributes)
        for span in itertools.chain.from_iterable(scope.spans for scope in resource.scope_spans):
            try:
                spans.append(_plain(span, about))
            except Nonsense as error:
                dropped[str(error)] += 1
    return spans, dropped


def _plain(span: Any, resource: Plain) -> Plain:
    """Return one span. Raises Nonsense."""
    service = resource.get("service.name")
    if service not in SERVICES:
        raise Nonsense("it is of no service of the shop")
    ms = (span.end_time_unix_nano - span.start_time_unix_nano) / NANOSECONDS
    if not span.start_time_unix_nano or not 0 <= ms <= LONGEST_MS:
        raise Nonsense("it ends before it begins, or lasts for days")
    if not span.name or span.kind >= len(KINDS):
        raise Nonsense("it has no name, or is of no kind")
    attributes = _attributes(span.attributes)
    return {
        "trace": _id(span.trace_id, 16),
        "id": _id(span.span_id, 8),
        "parent": _id(span.parent_span_id, 8) if span.parent_span_id else None,
        "name": _text(span.name),
        "kind": KINDS[span.kind],
        "service": service,
        "start": span.start_time_unix_nano / NANOSECONDS,
        "ms": round(ms, 3),
        "error": attributes.pop("error.type", "error") if span.status.code == ERROR else None,
        "attributes": attributes,
        "links": [[_id(link.trace_id, 16), _id(link.span_id, 8)] for link in span.links[:MOST_LINKS]],
    }


def _id(octets: bytes, length: int) -> str:
    if len(octets) != length or not any(octets):
        raise Nonsense("an id is of the wrong length, or zero")
    return octets.hex()


def _text(text: str) -> str:
    """Return text of a bounded length that is seen as it is."""
    return re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]|[\u2028-\u202e\u2066-\u2069]", "?", text[:LONGEST_TEXT])


def _attributes(given: Iterable[Any]) -> Plain:
    found: Plain = {}
    for one in itertools.islice(given, MOST_ATTRIBUTES):
        kind = one.value.WhichOneof("value")
        if kind in ("string_value", "bool_value", "int_value", "double_value"):
            value = getattr(one.value, kind)
            found[_text(one.key)] = _text(value) if isinstance(value, str) else value
    return found


class Position(NamedTuple):
    """What was received last by somebody: the life of a ring, and the number of a span in it."""

    life: str
    number: int

    def __str__(self) -> str:
        return f"{self.life}.{self.number}"

    @classmethod
    def of(cls, text: str | None) -> "Position | None":
        """Read a position; None for one that we have not made."""
        life, _, number = (text or "").partition(".")
        return cls(life, int(number)) if re.fullmatch(r"[0-9]{1,15}", number) and life else None


class Ring:
    """The newest spans, numbered from 1. It forgets all when its process ends: `life` says which process it was."""

    def __init__(self, size: int = KEPT) -> None:
        self.life = uuid4().hex[:8]
        self.received = 0
        self.dropped: Counter[str] = Counter()
        self._spans: deque[Plain] = deque(maxlen=size)
        self._news = News()

    def add(self, spans: Sequence[Plain]) -> None:
        """Add spans, and wake whoever waits for them."""
        self._spans.extend(spans)
        self.received += len(spans)
        if spans:
            news, self._news = self._news, News()
            news.send()

    @property
    def news(self) -> News:
        """What the next `add` will send."""
        return self._news

    def after(self, position: Position | None, most: int) -> tuple[list[Plain], Position, bool]:
        """Return up to `most` spans that follow `position`, where they end, and whether some are lost between.

        Without a position, the oldest that are kept come first.
        """
        oldest = self.received - len(self._spans)
        is_known = position is not None and position.life == self.life and position.number <= self.received
        seen = position.number if position and is_known else oldest
        is_lost = position is not None and (not is_known or seen < oldest)
        first = max(seen, oldest)
        spans = list(itertools.islice(self._spans, first - oldest, first - oldest + most))
        return spans, Position(self.life, first + len(spans)), is_lost
