"""What the page takes in, keeps and sends, and whom it serves; without servers."""

import gzip
import json
import os
import re
import socket
import subprocess
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import eventlet
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from werkzeug.test import Client, EnvironBuilder

from services.local.net import wait_for
from services.local.page import receiver, spans, stream
from services.local.page.app import HEADERS, STATIC, Page, Where
from services.local.page.code import OF, snippets
from services.local.page.control import Control, ControlClient, ControlServer, accepts, children_of
from services.local.page.settings import address, collector, traced_to
from services.local.page.spans import Position, Ring, read
from services.local.page.stream import Stream
from services.local.stack import ROOT, Stack
from services.scenario import Scenario
from services.shop import SHOP, STYLES
from tests.page import made

TOKEN = "secret"
SEEN_S = 5
HERE = {"base_url": "http://127.0.0.1:8000", "environ_base": {"REMOTE_ADDR": "127.0.0.1"}}
PROTOBUF = {"content_type": receiver.PROTOBUF}
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
CHANGES = [
    "/page/audit",
    "/page/burst",
    "/page/without/inbox",
    f"/page/orders/{uuid4()}/publish-again",
    "/page/parts/billing/kill",
]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    nowhere = dict.fromkeys(("users", "billing", "orders", "notifications"), "postgresql://x@127.0.0.1:1/x")
    return Page(Where("embedded", STYLES["broker"], 8000, TOKEN, nowhere, tmp_path))


@pytest.fixture
def client(page: Page) -> Client:
    return Client(page)


def problem(answer) -> str:
    assert answer.content_type == "application/problem+json"
    return answer.json["type"].removeprefix(f"urn:{SHOP.name}:problem:")


# --- what comes in


def test_a_span_is_read_as_it_is():
    [root, *_, letters] = read(made.request(made.order("an-order").spans))[0]
    assert root == {
        "trace": root["trace"],
        "id": root["id"],
        "parent": None,
        "name": "POST /orders",
        "kind": "server",
        "service": "orders",
        "instance": root["instance"],
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


# --- what is kept, and sent


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


def opened(streaming: Stream, last_id: str | None = None) -> Generator[str, None, None]:
    headers: Any = {"Last-Event-ID": last_id} if last_id else {}
    builder = EnvironBuilder("/page/spans", headers=headers)
    request = builder.get_request()
    answer = streaming.answer(request)
    assert request.environ["eventlet.minimum_write_chunk_size"] == 0
    return (one.decode() for one in answer.response)


def test_a_stream_goes_on_where_the_browser_was():
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


def test_a_stream_says_that_spans_are_lost():
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


def test_a_stream_waits_for_what_comes_and_shows_that_it_lives(monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    ring = Ring(size=10)
    streaming = Stream(ring)
    coming = opened(streaming)
    next(coming)
    assert next(coming).startswith(":")
    eventlet.spawn_after(0.01, ring.add, numbered(1))
    assert "spans" in next(one for one in coming if not one.startswith(":"))
    assert streaming.open == 1
    coming.close()
    assert streaming.open == 0


def test_there_are_only_so_many_streams(page, client):
    page.stream.open = stream.MOST
    answer = client.get("/page/spans", **HERE)
    assert answer.status_code == 503 and problem(answer) == "unavailable"


# --- who is served


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN[:-1]}], ids=str)
def test_what_changes_something_needs_the_token(page, client, path, headers):
    answer = client.post(path, headers=headers, **HERE)
    assert answer.status_code == 403 and problem(answer) == "wrong-token"
    assert not page.audits.is_running and not page.burst.is_running and not page.without.is_running


def test_every_post_but_that_of_spans_needs_the_token(page):
    changing = {pattern.pattern for method, pattern, _, changes in page.routes if method == "POST" and changes}
    every = {pattern.pattern for method, pattern, _, _ in page.routes if method == "POST"}
    assert every - changing == {receiver.PATH} and len(changing) == len(CHANGES)


@pytest.mark.parametrize("path", ["/", "/page/status", "/page/main.js", "/page/spans", "/page/audit", "/v1/traces"])
@pytest.mark.parametrize(
    "host, headers, name",
    [
        ("evil.example:8000", {}, "wrong-host"),
        ("127.0.0.1.evil.example", {}, "wrong-host"),
        ("[::1", {}, "wrong-host"),
        ("127.0.0.1:8000", {"Origin": "http://evil.example"}, "wrong-origin"),
        ("127.0.0.1:8000", {"Origin": "null"}, "wrong-origin"),
        ("127.0.0.1:8000", {"Origin": "http://127.0.0.1:9000"}, "wrong-origin"),
    ],
)
def test_other_sites_are_refused(client, path, host, headers, name):
    for method in ("GET", "POST"):
        answer = client.open(path, method=method, headers={"Host": host} | headers | RIGHT, **HERE)
        assert answer.status_code == 403 and problem(answer) == name


def test_other_machines_are_refused(client):
    answer = client.get("/", base_url="http://127.0.0.1:8000", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 403 and problem(answer) == "wrong-host"


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/status", "/page/nothing", "/page/parts/x/y"])
def test_every_answer_has_the_security_headers(client, path):
    answer = client.get(path, **HERE)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_files_have_nothing_inline_and_nothing_from_elsewhere():
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", html)
    for file in STATIC.iterdir():
        urls = set(re.findall(r"https?://[\w./]+", file.read_text()))
        assert urls <= {"http://www.w3.org/2000/svg"}, file


def test_every_file_that_is_named_is_there_and_served(client):
    named = {"index.html"}
    for file in STATIC.iterdir():
        named |= {a or b for a, b in re.findall(r"from '\./([\w.]+)'|\"/page/([\w-]+\.\w+)\"", file.read_text())}
    assert named == {file.name for file in STATIC.iterdir()}
    for name in named - {"index.html"}:
        answer = client.get(f"/page/{name}", **HERE)
        kind = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[Path(name).suffix]
        assert answer.status_code == 200 and answer.mimetype == kind


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/app.py", "/page/static/main.js", "/page/code/x", "/page/"])
def test_nothing_else_is_served(client, path):
    answer = client.get(path, **HERE)
    assert answer.status_code == 404 and problem(answer) == "not-found"


@pytest.mark.parametrize("path", ["/page/orders/x", "/page/orders?user_id=1", "/page/parts/x/kill?down_s=1000"])
def test_a_bad_value_is_named(page, client, path):
    object.__setattr__(page.where, "control", ControlClient(Path("/nowhere")))
    method = "POST" if "parts" in path else "GET"
    answer = client.open(path, method=method, headers=RIGHT, **HERE)
    assert answer.status_code == 422 and problem(answer) == "invalid-request"


def test_a_method_that_is_not_served_is_named(client):
    answer = client.delete("/page/status", **HERE)
    assert answer.status_code == 405 and answer.headers["Allow"] == "GET"


def test_databases_that_are_away_are_said_to_be(client):
    assert client.get("/page/orders", **HERE).json == {"orders": "away", "users": "away"}
    state = client.get(f"/page/orders/{uuid4()}", **HERE).json
    assert set(state.values()) == {"away"}


# --- the rest


def test_the_steps_are_those_of_the_scenario():
    text = (STATIC / "steps.js").read_text()
    assert re.findall(r"\['(.*?)', \(show\)", text) == [title for title, _ in Scenario("").steps()]


@pytest.mark.parametrize("lesson", OF)
def test_the_lines_of_each_lesson_are_found(lesson):
    for one in snippets(lesson):
        assert one["name"] in one["text"]
        assert (ROOT / one["file"]).read_text().splitlines()[one["first"] - 1] == one["text"].splitlines()[0]


def test_each_lesson_has_its_lines():
    assert re.findall(r"^    id: '([\w-]+)'", (STATIC / "lessons.js").read_text(), re.M) == list(OF)


@pytest.mark.parametrize(
    "environ, traced",
    [
        ({}, "http://127.0.0.1:8000"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, None),
        ({"OTEL_SDK_DISABLED": "TRUE"}, None),
    ],
    ids=str,
)
def test_traces_go_to_the_page_unless_somebody_wants_them_elsewhere(environ, traced):
    assert traced_to(8000, environ).get("OTEL_EXPORTER_OTLP_ENDPOINT") == traced
    assert (collector(environ) is None) == (traced is not None or "OTEL_SDK_DISABLED" in environ)


def test_the_token_is_not_sent_with_the_url():
    assert address(8000, "t") == "http://127.0.0.1:8000/#token=t"


# --- breaking


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[tuple[Stack, ControlClient]]:
    """A stack of sleeping programs in place of the services."""
    stack = Stack(tmp_path, 1, say=lambda _: None)
    for name in ("users", "billing", "orders", "notifications", "gateway"):
        stack.supervisor.add(name, ["sleep", "60"])
    stack.supervisor.start()
    server = ControlServer(stack.control, tmp_path / "control")
    yield stack, ControlClient(tmp_path / "control")
    server.stop()
    stack.control.thaw_all()
    stack.supervisor.stop()


def state_of(client: ControlClient, name: str) -> tuple[str, int | None]:
    parts = client.parts()
    assert parts is not None
    return next((part["state"], part["pid"]) for part in parts if part["name"] == name)


def test_a_part_is_killed_and_comes_back(controlled):
    stack, client = controlled
    old = stack.supervisor.pid("billing")
    client.do("kill", "billing", 0.3)
    wait_for(lambda: state_of(client, "billing") == ("dead", None), SEEN_S, "the part to be so")
    wait_for(lambda: state_of(client, "billing")[1] not in (None, old), SEEN_S, "the part to be so")


def test_a_part_is_frozen_and_thawed(controlled):
    stack, client = controlled
    pid = stack.supervisor.pid("orders")
    client.do("freeze", "orders")
    assert state_of(client, "orders") == ("frozen", pid)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", SEEN_S, "the part to be so")
    client.do("thaw", "orders")
    assert state_of(client, "orders")[0] != "frozen"
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] != "T", SEEN_S, "the part to be so")


def test_a_frozen_part_is_restarted(controlled):
    stack, client = controlled
    pid = stack.supervisor.pid("users")
    client.do("freeze", "users")
    client.do("restart", "users")
    wait_for(lambda: state_of(client, "users")[1] not in (None, pid), SEEN_S, "the part to be so")
    assert state_of(client, "users")[0] != "frozen"


@pytest.mark.parametrize("action, part", [("kill", "gateway"), ("kill", "1"), ("explode", "billing"), ("kill", "../x")])
def test_nothing_else_is_killed(controlled, action, part):
    stack, client = controlled
    before = {name: stack.supervisor.pid(name) for name in stack.supervisor.names()}
    with pytest.raises(Exception, match="no such part"):
        client.do(action, part)
    assert before == {name: stack.supervisor.pid(name) for name in stack.supervisor.names()}


@pytest.mark.parametrize("line", [b"", b"nonsense\n", b"[]\n", b"{}\n", b'{"action": "kill"}\n', b"x" * 5000 + b"\n"])
def test_nonsense_on_the_socket_changes_nothing(controlled, line):
    _, client = controlled
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(client.path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b"null\n"
    assert client.parts()


def test_only_its_own_user_may_open_the_socket(controlled):
    assert controlled[1].path.stat().st_mode & 0o777 == 0o600


def test_a_stack_that_does_not_answer_is_said_to_be_away(tmp_path):
    nobody = ControlClient(tmp_path / "nothing")
    assert nobody.parts() is None
    with pytest.raises(Exception, match="does not answer"):
        nobody.do("kill", "billing")


def test_the_processes_below_a_process_are_found():
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in children_of(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_a_port_accepts_or_not():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert accepts(port)
    assert not accepts(port)


def test_control_of_a_stack_without_servers_has_no_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("AMQP_URI", "amqp://x")
    for service in ("USERS", "BILLING", "ORDERS", "NOTIFICATIONS"):
        monkeypatch.setenv(f"{service}_DATABASE_URL", "postgresql://x@127.0.0.1:1/x")
    assert not Control(Stack(tmp_path, 1, say=lambda _: None))._servers()
