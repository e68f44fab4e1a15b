"""Contexts that are passed on, spans and their parents, and what the log says of them."""

import inspect
import json
import logging
import subprocess
import sys
from typing import Any

import eventlet
import pytest
from eventlet import Timeout
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.kit import tracing
from services.kit.config import BadConfiguration
from services.kit.container import InheritingPool
from services.kit.logs import formatter
from services.kit.tracing import OpenTelemetry, Tracer, tracer_of
from services.kit.web.problems import nothing_here, unavailable
from services.kit.web.request_id import identified
from services.local.stack import ROOT

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CONTEXT = f"00-{'a' * 32}-{'b' * 16}-03"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"
UNSAMPLED = f"00-{'e' * 32}-{'f' * 16}-02"  # of a random id, and not sampled


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OpenTelemetry:
    return OpenTelemetry("orders", SimpleSpanProcessor(exporter))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"):
        monkeypatch.delenv(name, raising=False)


def test_it_is_off_unless_there_is_a_collector(monkeypatch: pytest.MonkeyPatch):
    assert type(tracer_of("orders")) is Tracer
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    on = tracer_of("orders")
    assert on.is_on
    on.stop()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not tracer_of("orders").is_on
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not tracer_of("orders").is_on


def test_nothing_of_opentelemetry_is_imported_while_it_is_off():
    code = (
        "import sys, services.orders.broker, services.billing.events, services.users.http, services.shop as shop;"
        "shop.tracer = shop.container.tracer_of('orders');"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("argument", ["0", "1", "0.01", ".5", "1.0", ""])
def test_a_share_is_taken(monkeypatch: pytest.MonkeyPatch, argument: str):
    monkeypatch.setenv(ENDPOINT, "https://collector/")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    tracer_of("orders").stop()


@pytest.mark.parametrize("argument", ["2", "-1", "one", "1.5", "nan"])
def test_another_share_is_refused(monkeypatch: pytest.MonkeyPatch, argument: str):
    monkeypatch.setenv(ENDPOINT, "https://collector/")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with pytest.raises(BadConfiguration, match="OTEL_TRACES_SAMPLER_ARG"):
        tracer_of("orders")


def test_a_span_goes_on_with_the_context_that_it_is_given(tracer: OpenTelemetry, exporter: InMemorySpanExporter):
    with tracer.span("one", parent=CONTEXT):
        inner = tracing.traceparent()
        with tracer.span("two"):
            assert tracing.headers()["traceparent"].split("-")[1] == "a" * 32
    assert tracing.traceparent() is None and tracing.headers() == {}
    two, one = exporter.get_finished_spans()
    assert (one.parent.span_id, two.parent.span_id) == (int("b" * 16, 16), one.context.span_id)
    assert inner == f"00-{'a' * 32}-{one.context.span_id:016x}-03"


@pytest.mark.parametrize("nonsense", ["", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"])
def test_a_context_that_is_none_begins_a_new_trace(tracer: OpenTelemetry, exporter, nonsense: str):
    with tracer.span("one", parent=nonsense):
        pass
    [one] = exporter.get_finished_spans()
    assert one.parent is None


@pytest.mark.parametrize("foreign", [5, True, b"bytes", ["a list"], {"a": "table"}])
def test_a_header_of_a_foreign_message_may_be_anything(tracer: OpenTelemetry, exporter, foreign: Any):
    with tracer.span("one", parent=foreign):
        pass
    [one] = exporter.get_finished_spans()
    assert one.parent is None


def test_an_error_marks_the_span_and_shows_no_text(tracer: OpenTelemetry, exporter: InMemorySpanExporter):
    with pytest.raises(ValueError, match="secret"), tracer.span("one"):
        raise ValueError("secret")
    [one] = exporter.get_finished_spans()
    assert one.status.status_code.name == "ERROR" and one.attributes == {"error.type": "ValueError"}
    assert "secret" not in one.to_json()


def test_a_batch_is_linked_to_all_and_goes_on_with_the_first_that_is_sampled(tracer: OpenTelemetry, exporter):
    with tracer.batch("round", [("x", UNSAMPLED), ("y", CONTEXT), ("z", OTHER), ("z2", OTHER), ("none", None)]):
        assert [tracing.traceparent(about) for about in "xyz"] == [UNSAMPLED, CONTEXT, OTHER]
        assert tracing.traceparent("none") == tracing.traceparent()
    assert tracing.traceparent("x") is None
    [one] = exporter.get_finished_spans()
    assert one.attributes == {"batch.size": 5}
    assert [f"{link.context.trace_id:x}"[0] for link in one.links] == ["e", "a", "c"]
    assert one.parent.trace_id == int("a" * 32, 16)


def test_a_sampled_share_is_whole_traces(monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracer = OpenTelemetry("orders", SimpleSpanProcessor(exporter))
    with tracer.span("ours"):
        unsampled = tracing.traceparent()
        with tracer.batch("a round of it", [(1, unsampled)]), tracer.span("more of it"):
            pass
    assert int(unsampled[-2:], 16) & 1 == 0 and exporter.get_finished_spans() == ()
    with tracer.span("the client has chosen it", parent=CONTEXT), tracer.batch("round", [(1, unsampled), (2, None)]):
        pass
    assert [one.name for one in exporter.get_finished_spans()] == ["round", "the client has chosen it"]


def test_a_batch_has_more_links_than_the_sdk_allows_by_itself(tracer: OpenTelemetry, exporter):
    contexts = [(number, f"00-{number:032x}-{number:016x}-01") for number in range(1, 301)]
    with tracer.batch("round", contexts):
        pass
    [one] = exporter.get_finished_spans()
    assert len(one.links) == 300


def test_a_worker_goes_on_with_the_context_of_who_spawned_it(tracer: OpenTelemetry):
    pool = InheritingPool(2)
    with tracer.span("one", parent=CONTEXT):
        inherited = pool.spawn(tracing.traceparent)
        alone = eventlet.spawn(tracing.traceparent)
    assert inherited.wait().split("-")[1] == "a" * 32
    assert alone.wait() is None


def test_a_worker_that_spawns_its_successor_while_all_are_busy_is_not_its_frame():
    """eventlet's pool would run the successor within the worker, and end the process after some hundred of them."""
    pool = InheritingPool(2)
    depths: list[int] = []
    most = 0

    def work(left: int) -> None:
        nonlocal most
        depths.append(len(inspect.stack(0)))
        most = max(most, pool.running())
        eventlet.sleep(0)
        if left:
            pool.spawn(work, left - 1)

    def others() -> None:
        while len(depths) < 300:
            pool.spawn(eventlet.sleep, 0.001).wait()

    clients = [eventlet.spawn(others) for _ in range(4)]
    pool.spawn(work, 300)
    for one in clients:
        one.wait()
    with Timeout(5):
        pool.waitall()
    assert len(depths) == 301 and max(depths) == depths[0]
    assert most <= 3 and pool.free() == 2, "one more than its size for a moment"


def test_an_answer_of_ours_that_went_wrong_names_its_request():
    with identified("seven"):
        failed = json.loads(unavailable().response("shop").get_data())
        refused = json.loads(nothing_here().response("shop").get_data())
    assert failed["instance"] == "urn:shop:request:seven" and "instance" not in refused


def test_what_is_off_can_be_used_all_the_same():
    off = Tracer()
    with off.span("one", parent=CONTEXT) as span, off.batch("two", [(1, CONTEXT)]), off.under_way(span):
        span.set_attribute("name", "value")
        assert tracing.traceparent(1) is None
    off.begin("three").end()


def line(format_: str, **record: object) -> str:
    values = {"name": "kit", "levelname": "INFO", "levelno": 20, "msg": "so %s", "args": ("it is",)}
    return formatter(format_).format(logging.makeLogRecord(values | record))


def test_a_line_of_the_log_says_the_trace_and_the_order(tracer: OpenTelemetry):
    assert line("line").endswith("INFO kit: so it is")
    with tracer.span("one", parent=CONTEXT):
        tracing.note("shop.order.id", "7")
        assert line("line").endswith(f"INFO kit: so it is [trace_id={'a' * 32} shop.order.id=7]")
        with identified("seven"):
            said = json.loads(line("json"))
    with tracer.span("another"):
        assert "shop.order.id" not in line("line")
    assert (said["message"], said["trace_id"], said["shop.order.id"]) == ("so it is", "a" * 32, "7")
    assert said["request_id"] == "seven" and "request_id" not in line("json")


def test_a_json_line_has_the_error_in_it():
    try:
        raise ValueError("why\nso")
    except ValueError:
        written = line("json", exc_info=sys.exc_info())
    assert "\n" not in written
    said = json.loads(written)
    assert said.keys() == {"time", "level", "logger", "message", "error"}
    assert said["error"].endswith("ValueError: why\nso")


def test_another_format_of_the_log_ends_with_one_line():
    with pytest.raises(SystemExit, match="LOG_FORMAT should be one of line, json"):
        formatter("xml")
