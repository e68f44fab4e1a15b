"""A small OTLP receiver: `POST /v1/traces`, protobuf over HTTP, as the services export their spans.

(OpenTelemetry Protocol Specification, OTLP/HTTP. JSON and gRPC are not served: only our own services send.)
"""

import zlib

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from werkzeug.wrappers import Request, Response

from services.kit.web.problems import Problem
from services.local.page.spans import Ring, read

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
SENT_BYTES = 4 * 2**20
BYTES = 16 * 2**20  # ... of it, uncompressed


class Receiver:
    """Reads spans into a ring. What makes no sense is dropped and counted, and the sender is told how many."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def answer(self, request: Request, body: bytes) -> Response:
        """Take the spans of one request. Raises Problem for what is no request of OTLP."""
        if request.mimetype != PROTOBUF:
            raise Problem(415, "unsupported-media-type", f"Content-Type: should be {PROTOBUF}.")
        message = ExportTraceServiceRequest()
        try:
            message.ParseFromString(_plain(request, body))
        except DecodeError:
            raise Problem(400, "malformed-body", "body: is no ExportTraceServiceRequest.") from None
        spans, dropped = read(message)
        self.ring.add(spans)
        self.ring.dropped.update(dropped)
        answer = ExportTraceServiceResponse()
        if dropped:
            answer.partial_success.rejected_spans = dropped.total()
            answer.partial_success.error_message = "; ".join(sorted(dropped))
        return Response(answer.SerializeToString(), content_type=PROTOBUF)


def _plain(request: Request, body: bytes) -> bytes:
    """Return the body as it was before its Content-Encoding, of at most BYTES bytes."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise Problem(415, "unsupported-media-type", "Content-Encoding: should be gzip, deflate or none.")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # which sees by itself which of the two it is
    try:
        plain = inflater.decompress(body, BYTES + 1)
    except zlib.error:
        raise Problem(400, "malformed-body", f"body: is not {encoding}.") from None
    if len(plain) > BYTES:
        raise Problem(413, "body-too-long", f"body: should not be longer than {BYTES} bytes.")
    if not inflater.eof:
        raise Problem(400, "malformed-body", "body: ends too early.")
    return plain
