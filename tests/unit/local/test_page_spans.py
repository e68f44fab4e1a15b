"""The spans that the page takes in, keeps and sends; without servers."""

import gzip
import json
import re
import socket
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from werkzeug.test import EnvironBuilder

from services.local.page import receiver, spans, stream
from services.local.page.spans import Position, Ring, read
from services.local.page.stream import Stream
from tests.page import made
from tests.unit.local.conftest import HERE, problem

Open = Callable[..., Generator[str, None, None]]
PROTOBUF = {"content_type": receiver.PROTOBUF}


def test_a_span_is_read_as_it_is():
    [root, *_, letters] = read(made.request(made.order("an-order").spans))[0]
    assert root == {
        "trace": root["trace"],
        "id": root["id"],
        "parent": None,
        "name": "POST /orders",
        "kind": "server",
        "service": "orders",
        "start": pytest.approx(made.BEGAN_NS / 1e6),
        "ms": 24.0,
        "error": None,
        "attributes": made.HTTP_POST | {"shop.order.id": "an-order"},
        "links": [],
    }
    assert letters["service"] == "notifications" and letters["trace"] == root["trace"]


def test_an_error_of_a_span_is_its_type():
    one = made.Traced()
    one.add("orders", "billing.pay_all", made.CLIENT, 0, 3000, error="RpcUnavailable")
    [span], _ = read(made.request(one.spans))
    assert span["error"] == "RpcUnavailable" and "error.type" not in span["attributes"]


NONSENSE = {
    "trace id": lambda span: setattr(span, "trace_id", b"short"),
    "no trace": lambda span: setattr(span, "trace_id", bytes(16)),
    "span id": lambda span: setattr(span, "span_id", b""),
    "parent": lambda span: setattr(span, "parent_span_id", b"123"),
    "backwards": lambda span: setattr(span, "end_time_unix_nano", 1),
    "no time": lambda span: setattr(span, "start_time_unix_nano", 0),
    "days": lambda span: setattr(span, "end_time_unix_nano", 2**63),
    "no name": lambda span: setattr(span, "name", ""),
    "kind": lambda span: setattr(span, "kind", 77),
    "link": lambda span: span.links.add(trace_id=b"x", span_id=b"y"),
}


@pytest.mark.parametrize("harm", NONSENSE.values(), ids=NONSENSE)
def test_a_span_that_makes_no_sense_is_dropped_and_counted(page, client, harm):
    one = made.Traced()
    one.add("orders", "good", made.INTERNAL, 0, 1)
    harm(one.add("orders", "bad", made.INTERNAL, 0, 1))
    answer = client.post("/v1/traces", data=made.request(one.spans).SerializeToString(), **PROTOBUF, **HERE)
    assert answer.status_code == 200
    said = ExportTraceServiceResponse.FromString(answer.data)
    assert said.partial_success.rejected_spans == 1 and said.partial_success.error_message
    assert page.ring.received == 1 and page.ring.dropped.total() == 1
    assert client.get("/page/status", **HERE).json["spans"]["dropped"]


def test_a_span_of_another_product_is_dropped():
    one = made.Traced()
    one.add("somebody", "POST /orders", made.SERVER, 0, 1)
    kept, dropped = read(made.request(one.spans))
    assert not kept and dropped.total() == 1


def test_texts_and_lists_are_bounded():
    one = made.Traced()
    linked = one.add(
        "orders", "x" * 5000, made.INTERNAL, 0, 1, about={f"a{n}": "y\x1b\u202e" * 5000 for n in range(99)}
    )
    one.add("orders", "batch", made.INTERNAL, 0, 1, links=[linked] * 5000)
    first, second = read(made.request(one.spans))[0]
    assert len(first["name"]) == spans.LONGEST_TEXT and len(first["attributes"]) == spans.MOST_ATTRIBUTES
    assert first["attributes"]["a0"] == ("y??" * 5000)[: spans.LONGEST_TEXT]
    assert len(second["links"]) == spans.MOST_LINKS


@pytest.mark.parametrize("encoding, encode", [("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)])
def test_a_request_may_be_compressed(page, client, encoding, encode):
    body = encode(made.request(made.order("an-order").spans).SerializeToString())
    headers = {"Content-Encoding": encoding} if encoding else {}
    assert client.post("/v1/traces", data=body, headers=headers, **PROTOBUF, **HERE).status_code == 200
    assert page.ring.received == len(made.order("an-order").spans)


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (b"\xff\xff\xff", {}, 400),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"x" * 1000)[:-9], {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(bytes(receiver.BYTES + 1)), {"Content-Encoding": "gzip"}, 413),
        (bytes(receiver.SENT_BYTES + 1), {}, 413),
        (b"", {"Content-Encoding": "br"}, 415),
        (b"{}", {"Content-Type": "application/json"}, 415),
    ],
    ids=["no protobuf", "no gzip", "cut off", "a bomb", "too long", "brotli", "json"],
)
def test_what_is_no_request_is_refused(page, client, body, headers, status):
    headers = {"Content-Type": receiver.PROTOBUF} | headers
    answer = client.post("/v1/traces", data=body, headers=headers, **HERE)
    assert answer.status_code == status and problem(answer)
    assert page.ring.received == 0


def numbered(count: int, first: int = 1) -> list[dict]:
    return [{"id": number} for number in range(first, first + count)]


def test_the_ring_keeps_the_newest():
    ring = Ring(size=5)
    ring.add(numbered(12))
    kept, position, is_lost = ring.after(None, 100)
    assert [one["id"] for one in kept] == [8, 9, 10, 11, 12] and not is_lost
    assert position == Position(ring.life, 12)


def test_who_comes_back_gets_each_span_once():
    ring = Ring(size=100)
    ring.add(numbered(10))
    first, position, _ = ring.after(None, 4)
    ring.add(numbered(5, first=11))
    again = Position.of(str(position))
    others, end, is_lost = ring.after(again, 100)
    assert [one["id"] for one in first + others] == list(range(1, 16)) and not is_lost
    assert ring.after(end, 100) == ([], end, False)


@pytest.mark.parametrize("asks", [Position("another", 3), Position("another", 300), None], ids=str)
def test_who_asks_for_what_is_gone_is_told(asks):
    ring = Ring(size=5)
    ring.add(numbered(12))
    kept, _, is_lost = ring.after(asks or Position(ring.life, 6), 100)
    assert is_lost and [one["id"] for one in kept] == [8, 9, 10, 11, 12]
    assert ring.after(Position(ring.life, 7), 100)[2] is False
    assert ring.after(Position(ring.life, 99), 100)[2] is True


@pytest.mark.parametrize("text", [None, "", "1", "x.", ".5", "x.-1", "x.1e3", "x.٣", "x." + "9" * 16])
def test_a_position_that_we_have_not_made_is_none(text):
    assert Position.of(text) is None


def events(text: str) -> list[tuple[str, str]]:
    """The names of events and their ids."""
    return [(name, id_) for id_, name in re.findall(r"(?:id: (\S+)\n)?event: (\w+)\n", text)]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open a stream, from a connection that its client keeps; return what comes."""
    with ExitStack() as kept:

        def open_one(streaming: Stream, last_id: str | None = None) -> Generator[str, None, None]:
            headers: Any = {"Last-Event-ID": last_id} if last_id else {}
            connection, _ = [kept.enter_context(end) for end in socket.socketpair()]
            builder = EnvironBuilder("/page/spans", headers=headers)
            request = builder.get_request()
            request.environ["eventlet.input"] = SimpleNamespace(get_socket=lambda: connection)
            answer = streaming.answer(request)
            assert request.environ["eventlet.minimum_write_chunk_size"] == 0
            return (one.decode() for one in answer.response)

        yield open_one


def test_a_stream_goes_on_where_the_browser_was(opened: Open):
    ring = Ring(size=100)
    ring.add(numbered(3))
    first = opened(Stream(ring))
    assert "retry:" in next(first)
    said = next(first)
    assert events(said) == [("spans", f"{ring.life}.3")] and json.loads(said.split("data: ")[1]) == numbered(3)
    first.close()
    ring.add(numbered(2, first=4))
    second = opened(Stream(ring), f"{ring.life}.3")
    next(second)
    said = next(second)
    assert json.loads(said.split("data: ")[1]) == numbered(2, first=4)


def test_a_stream_says_that_spans_are_lost(opened: Open):
    ring = Ring(size=3)
    ring.add(numbered(9))
    coming = opened(Stream(ring), "another.4")
    next(coming)
    assert events(next(coming)) == [("lost", "")]
    assert events(next(coming)) == [("spans", f"{ring.life}.9")]
    empty = Ring(size=3)
    coming = opened(Stream(empty), "another.4")
    next(coming)
    assert events(next(coming)) == [("lost", f"{empty.life}.0")]


def test_a_stream_waits_for_what_comes_and_shows_that_it_lives(monkeypatch, opened: Open):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    ring = Ring(size=10)
    streaming = Stream(ring)
    coming = opened(streaming)
    next(coming)
    assert next(coming).startswith(":")
    eventlet.spawn_after(0.01, ring.add, numbered(1))
    assert "spans" in next(one for one in coming if not one.startswith(":"))
    assert len(streaming.open) == 1
    coming.close()
    assert len(streaming.open) == 0


def test_there_are_only_so_many_streams(page, client):
    page.stream.open.most = 0
    answer = client.get("/page/spans", **HERE)
    assert answer.status_code == 503 and problem(answer) == "unavailable"
