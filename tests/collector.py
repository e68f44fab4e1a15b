"""A collector of traces for tests: it takes spans by OTLP over HTTP, and hands them out as trees."""

import gzip
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.local.net import HOST
from tests.serving import Serving

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


class Collected(NamedTuple):
    """A span as it came; `links` and `context` are pairs of a trace's and a span's id."""

    service: str
    name: str
    kind: str
    context: tuple[str, str]
    parent: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    is_error: bool

    @property
    def trace(self) -> str:
        return self.context[0]


class Collector(Serving):
    """Takes the spans that are sent to `endpoint` while it runs."""

    def __init__(self) -> None:
        self.spans: list[Collected] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.spans += spans_in(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer((HOST, 0), Handler)
        super().__init__(server)
        self.endpoint = f"http://{HOST}:{server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a service send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def of(self, **attributes: str) -> list[Collected]:
        """Return the spans that have these attributes; `_` in a name is `.` in that of the attribute."""
        wanted = {name.replace("_", "."): value for name, value in attributes.items()}
        return [one for one in self.spans if wanted.items() <= one.attributes.items()]

    def tree(self, trace: str) -> list[str]:
        """Return the spans of a trace as lines, indented below their parents, the first to begin first."""
        children = defaultdict(list)
        mine = [one for one in self.spans if one.trace == trace]
        ids = {one.context[1] for one in mine}
        for one in mine:
            children[one.parent if one.parent in ids else ""].append(one)

        def lines(parent: str, depth: int) -> Iterator[str]:
            for one in sorted(children[parent], key=lambda one: (one.service, one.name)):
                yield f"{'  ' * depth}{one.service}: {one.name} {one.kind}"
                yield from lines(one.context[1], depth + 1)

        return list(lines("", 0))


def spans_in(request: Any) -> Iterator[Collected]:
    for resource in request.resource_spans:
        service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Collected(
                    service,
                    span.name,
                    KINDS[span.kind],
                    (span.trace_id.hex(), span.span_id.hex()),
                    span.parent_span_id.hex(),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    {one.key: value_of(one.value) for one in span.attributes},
                    span.status.code == 2,
                )


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
