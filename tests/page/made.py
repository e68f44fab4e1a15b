"""Spans as the services export them, made for tests: of one order in the style `broker`, and of orders in one round."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

BEGAN_NS = 1_790_000_000_000_000_000
INTERNAL, SERVER, CLIENT, CONSUMER = 1, 2, 3, 5
HTTP_POST = {"http.request.method": "POST", "http.route": "/orders", "http.response.status_code": 201}
RPC = {"rpc.system": "nameko", "rpc.service": "billing", "rpc.method": "pay_all"}


@dataclass
class Traced:
    """The spans of one trace, as they are made."""

    trace: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def add(
        self,
        service: str,
        name: str,
        kind: Any,
        start_ms: float,
        ms: float,
        parent: Span | None = None,
        links: Iterable[Span] = (),
        error: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Span:
        span = Span(
            trace_id=self.trace,
            span_id=secrets.token_bytes(8),
            parent_span_id=parent.span_id if parent else b"",
            name=name,
            kind=kind,
            start_time_unix_nano=BEGAN_NS + int(start_ms * 1e6),
            end_time_unix_nano=BEGAN_NS + int((start_ms + ms) * 1e6),
        )
        for key, value in (about or {}).items():
            attribute(span.attributes, key, value)
        for one in links:
            span.links.add(trace_id=one.trace_id, span_id=one.span_id)
        if error:
            span.status.code = Status.STATUS_CODE_ERROR
            attribute(span.attributes, "error.type", error)
        self.spans.append((service, span))
        return span


def attribute(attributes: Any, key: str, value: Any) -> None:
    one = attributes.add(key=key)
    kind = {bool: "bool_value", int: "int_value", float: "double_value"}.get(type(value), "string_value")
    setattr(one.value, kind, value)


def request(spans: Sequence[tuple[str, Span]]) -> ExportTraceServiceRequest:
    """Return a request with these spans, each of its service."""
    made = ExportTraceServiceRequest()
    for service in dict.fromkeys(service for service, _ in spans):
        resource = made.resource_spans.add()
        attribute(resource.resource.attributes, "service.name", service)
        scope = resource.scope_spans.add()
        scope.scope.name = "services.kit"
        scope.spans.extend(span for its, span in spans if its == service)
    return made


def order(order_id: str, at_ms: float = 0.0, duplicate: bool = False) -> Traced:
    """One order that is placed alone, from the request to the letter."""
    made = Traced()

    def statement(service: str, name: str, start_ms: float, parent: Span) -> Span:
        about = {"db.system.name": "postgresql", "db.namespace": service, "db.query.summary": name}
        return made.add(service, name, CLIENT, at_ms + start_ms, 1.5, parent, about=about)

    about = {"shop.order.id": order_id}
    root = made.add("orders", "POST /orders", SERVER, at_ms, 24, about=HTTP_POST | about)
    store = made.add("orders", "orders._store", INTERNAL, at_ms + 0.6, 2.6, root, [root], about={"batch.size": 1})
    statement("orders", "claim_orders", 1, store)
    settle = made.add(
        "orders", "orders._settle_together", INTERNAL, at_ms + 4.1, 18, root, [root], about={"batch.size": 1}
    )
    call = made.add("orders", "billing.pay_all", CLIENT, at_ms + 4.2, 14, settle, about=RPC)
    serve = made.add("billing", "billing.pay_all", SERVER, at_ms + 6, 13, call, about=RPC)
    statement("billing", "move", 8, serve)
    statement("orders", "end_orders", 19, settle)
    sending = {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.events",
        "messaging.batch.message_count": 1,
        "batch.size": 1,
    }
    made.add("orders", "send orders.events", CLIENT, at_ms + 70, 4, root, [root], about=sending)
    for number in range(1 + duplicate):
        start_ms = at_ms + 75 + 40 * number
        processing = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders.events:order_paid",
            "kit.attempt": 1,
            **({"kit.duplicate": True} if number else {}),
        }
        process = made.add(
            "notifications", "process orders.events:order_paid", CONSUMER, start_ms, 8, root, about=processing | about
        )
        handle = made.add("notifications", "notifications.on_order_paid", INTERNAL, start_ms + 1, 6, process, [process])
        statement("notifications", "add_letters", start_ms - at_ms + 2, handle)
    return made


def together(order_ids: Sequence[str]) -> list[tuple[str, Span]]:
    """Orders that share the round that settles them: it is in the trace of the first, and links to all."""
    traces, items, spans = [], [], []
    for order_id in order_ids:
        made = Traced()
        root = made.add("orders", "POST /orders", SERVER, 0, 30, about=HTTP_POST | {"shop.order.id": order_id})
        items.append(root)
        traces.append(made)
    first = traces[0]
    size = {"batch.size": len(order_ids)}
    settle = first.add("orders", "orders._settle_together", INTERNAL, 3, 20, items[0], items, about=size)
    call = first.add("orders", "billing.pay_all", CLIENT, 4, 14, settle, about=RPC)
    first.add("billing", "billing.pay_all", SERVER, 6, 10, call, about=RPC)
    for made in traces:
        spans += made.spans
    return spans
