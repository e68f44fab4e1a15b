"""An order is one trace, from the request to the letter: in each style, in a crowd, and across a crash."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from services.local.net import HOST, free_port, wait_for
from services.local.stack import ROOT, Stack
from services.shop import DEFAULT_STYLE, STYLES, Style
from tests.books import one
from tests.client import Api
from tests.collector import Collected, Collector
from tests.conftest import QUICK, Embedded
from tests.faults.points import all_points
from tests.faults.test_crash_points import planned

TRACED_S = 60
ATTEMPTS = 3
UNPUBLISHED = "select count(*) from outbox where published_at is null"

TREES = {
    "broker": """
        orders: POST /orders SERVER
          notifications: process orders.events:order_paid CONSUMER
            notifications: notifications.on_order_paid INTERNAL
              notifications: add_letters CLIENT
          orders: orders._settle_together INTERNAL
            orders: billing.pay_all CLIENT
              billing: billing.pay_all SERVER
                billing: move CLIENT
            orders: end_orders CLIENT
          orders: orders._store INTERNAL
            orders: claim_orders CLIENT
          orders: send orders.events CLIENT""",
    "http": """
        orders: POST /orders SERVER
          orders: PUT payments CLIENT
            billing: PUT /internal/billing/payments/<uuid:order_id> SERVER
              billing: billing._pay_together INTERNAL
                billing: move CLIENT
          orders: orders._end_together INTERNAL
            orders: end_orders CLIENT
          orders: orders._store INTERNAL
            orders: claim_orders CLIENT
          orders: send order_paid INTERNAL
            orders: PUT order_paid CLIENT
              notifications: PUT /internal/notifications/letters/<uuid:order_id> SERVER
                notifications: notifications._add_paid_together INTERNAL
                  notifications: add_letters CLIENT""",
    "events": """
        orders: POST /orders SERVER
          billing: process orders.events:order_placed CONSUMER
            billing: billing.on_order_placed INTERNAL
              billing: move_and_tell CLIENT
            billing: send billing.events CLIENT
            notifications: process billing.events:payment_accepted CONSUMER
              notifications: notifications.on_payment_accepted INTERNAL
                notifications: add_letters CLIENT
            orders: process billing.events:payment_accepted CONSUMER
              orders: orders.on_payment_accepted INTERNAL
                orders: SELECT orders CLIENT
                orders: end_orders CLIENT
          orders: orders._store INTERNAL
            orders: place_orders CLIENT
          orders: send orders.events CLIENT""",
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def place(api: Api, user_id: str, price: int = 4) -> tuple[str, str]:
    """Place an order within a trace of the client's own; return the trace and the id of the order."""
    trace = uuid4().hex
    headers = {"traceparent": f"00-{trace}-{'c' * 16}-01", "Prefer": "wait=4"}
    answer = api.request("POST", "/orders", json={"user_id": user_id, "price": price}, headers=headers)
    return trace, answer.json()["id"] if answer.ok else ""


@contextmanager
def running(folder: Path, collector: Collector, style: Style) -> Iterator[str]:
    """The base URL of a system that is traced: a stack in the default style, one process in the others."""
    if style.name == DEFAULT_STYLE:
        with Stack(folder, free_port(), QUICK | collector.environment, style=style) as stack:
            yield stack.url
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (collector.environment | {"STYLE": style.name}).items():
            patch.setenv(name, value)
        with Embedded(folder) as embedded:
            yield embedded.url


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_an_order_is_one_trace_from_the_request_to_the_letter(tmp_path: Path, collector: Collector, style: Style):
    expected = [line.removeprefix(" " * 8) for line in TREES[style.name].splitlines()[1:]]
    with running(tmp_path, collector, style) as url, Api(url, 4) as api:
        user_id = api.new_user(balance=10)["id"]
        for _ in range(ATTEMPTS):  # on a busy machine a call may come too late, so that recovery has to finish it
            trace, order_id = place(api, user_id, 1)
            with suppress(TimeoutError):
                wait_for(lambda trace=trace: collector.tree(trace) == expected, TRACED_S / 6, "the trace")
                break
        assert collector.tree(trace) == expected
        mine = [one for one in collector.spans if one.trace == trace]
        [request] = [one for one in mine if one.kind == "SERVER" and one.name == "POST /orders"]
        assert request.parent == "c" * 16
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/orders",
            "url.scheme": "http",
            "http.response.status_code": 201,
            "shop.order.id": order_id,
        }
        assert not any(one.is_error for one in mine)
        if style.name == "broker":
            check_batches(collector, url)


def check_batches(collector: Collector, url: str) -> None:
    """Orders that share rounds are found from them by links; each has its own letter in its own trace."""
    with ThreadPoolExecutor(20) as clients, Api(url) as api:
        users = [api.new_user(balance=100)["id"] for _ in range(3)]
        placed = dict(clients.map(lambda number: place(api, users[number % 3], 1), range(60)))

    def requests(trace: str) -> list[Collected]:
        return [one for one in collector.spans if one.trace == trace and one.name == "POST /orders"]

    def is_whole(trace: str) -> bool:
        names = [one.name for one in collector.spans if one.trace == trace]
        return "POST /orders" in names and "process orders.events:order_paid" in names

    wait_for(lambda: all(map(is_whole, placed)), TRACED_S, "all traces")
    contexts = {requests(trace)[0].context for trace in placed}

    def rounds_of_all(name: str) -> list[Collected]:
        rounds = [one for one in collector.spans if one.name == name and contexts & set(one.links)]
        return rounds if contexts <= {link for one in rounds for link in one.links} else []

    for name in ("orders._store", "orders._settle_together", "send orders.events"):  # the last may end after the letter
        rounds = wait_for(lambda name=name: rounds_of_all(name), TRACED_S, f"links of {name} to all orders")
        assert len(rounds) < len(placed), name  # else nothing was done together, and this shows nothing
        assert all(one.attributes["batch.size"] == len(one.links) for one in rounds)
        assert all(one.trace in {trace for trace, _ in one.links} for one in rounds)
    for trace, order_id in placed.items():
        [letter] = [one for one in collector.spans if one.trace == trace and one.kind == "CONSUMER"]
        assert letter.attributes["shop.order.id"] == order_id
    text = repr([one.attributes for one in collector.spans])
    assert "@" not in text and not any(user in text for user in users)


def test_a_trace_goes_on_in_the_process_that_takes_over_from_a_dead_one(tmp_path: Path, collector: Collector):
    plans = tmp_path / "plans"
    plans.mkdir()
    points = {str(point): point for point in all_points()}
    before_paying = points["orders: commit in services/orders/service.py:AskingOrders._store#1"]
    before_telling = points["orders: publish in services/kit/amqp/transport.py:AmqpTransport.send#1"]
    settings = QUICK | collector.environment | {"CRASH_PLAN_FOLDER": str(plans), "PUBLISH_TIMEOUT_S": "1"}
    nameko = (sys.executable, "-m", "tests.faults.crashing")
    settings |= {"OUTBOX_LEASE_S": "1.5"}
    with Stack(tmp_path / "stack", free_port(), settings, nameko=nameko) as stack, Api(stack.url) as api:
        user_id = api.new_user(balance=10)["id"]
        traces: list[str] = []
        for point, phase in ((before_paying, "after"), (before_telling, "before")):
            wait_for(lambda: one(stack, "orders", UNPUBLISHED) == 0, TRACED_S, "what came before to be published")
            (plans / "orders").write_text(planned(phase, point, point.lines))
            trace, _ = place(api, user_id)
            traces.append(trace)
            wait_for(lambda: not (plans / "orders").exists(), TRACED_S, "the death")
            later = {"orders: send orders.events CLIENT", "notifications: add_letters CLIENT"}
            wait_for(
                lambda trace=trace, later=later: later <= {line.strip() for line in collector.tree(trace)},
                TRACED_S,
                f"the trace to go on after {point}",
            )
            wait_for(api.is_ready, TRACED_S, "orders to be back")
        recovered = {trace for one in collector.spans if one.name == "recover orders" for trace, _ in one.links}
        assert traces[0] in recovered and traces[1] not in recovered


def test_a_collector_that_is_away_or_silent_costs_nothing_but_the_spans(tmp_path: Path):
    with ExitStack() as at_end:
        silent = at_end.enter_context(socket.create_server((HOST, 0)))  # accepts no connection, and answers nothing
        endpoint = f"http://{HOST}:{silent.getsockname()[1]}"
        tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        tracing |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "3"}  # seconds
        stack = at_end.enter_context(Stack(tmp_path, free_port(), QUICK | tracing))
        api = at_end.enter_context(Api(stack.url))
        user_id = api.new_user(balance=100)["id"]
        slowest = 0.0
        for _ in range(50):
            began = time.monotonic()
            answer = api.post("/orders", {"user_id": user_id, "price": 1})
            slowest = max(slowest, time.monotonic() - began)
            assert answer.status_code == 201
        assert slowest < 2.5
        log = tmp_path / "logs" / "orders.log"
        paused = "traces of orders paused: the collector is away"
        wait_for(lambda: paused in log.read_text(), TRACED_S, "the collector to be given up")
        began = time.monotonic()
        stack.supervisor.restart("orders")
        assert time.monotonic() - began < 10
        assert log.read_text().count(paused) == 1 and "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    "name, value",
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_variable_stops_the_start_with_one_line_that_names_it(name: str, value: str):
    run = subprocess.run(
        [str(Path(sys.executable).parent / "nameko"), "run", "--config", "config.yaml", "services.users.broker"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:9", name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert name in run.stderr and run.stderr.count("\n") == 1
