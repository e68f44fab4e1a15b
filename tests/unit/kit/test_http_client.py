"""Calls by HTTP: whatever the other service does, its caller is done in time and knows what it may believe."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
import urllib3.util.connection
from eventlet import Timeout
from eventlet.green import socket
from prometheus_client import REGISTRY
from pydantic import BaseModel

from services.kit import outage
from services.kit.container import Container
from services.kit.errors import CallFailed, Unavailable
from services.kit.web import client as module
from services.kit.web.client import CallUnavailable, HttpProxy, NoAnswer
from services.local import broker
from tests.unit.kit.peer import Behaviour, Peer, answer, cut, reset, silent, trickle
from tests.unit.kit.test_config import config

DEADLINE_S = 0.4
SLACK_S = 1.5
LONG_S = 5
MAX_CALLS = 3
OK = {"outcome": "accepted"}
HANGS = AssertionError("a call takes too long")


class Amount(BaseModel):
    amount: int
    currency: str = "€"


def settings(url: str | None, **further: Any) -> dict[str, Any]:
    return {
        **config(),
        "AMQP_URI": broker.URI,
        "WEB_SERVER_ADDRESS": None,
        "SERVICE_URLS": {"billing": url},
        "MAX_CALLS": MAX_CALLS,
        "RPC_TIMEOUT_S": DEADLINE_S,
        **further,
    }


class CallerService:
    """Calls billing."""

    name = "http_caller"
    billing = HttpProxy("billing")
    also_billing = HttpProxy("billing")


class Running:
    """A peer, and the client that calls it, as a worker gets it."""

    def __init__(self, *behaviours: Behaviour, path: str = "", **further: Any) -> None:
        self.peer = Peer(*behaviours)
        self.container = Container(CallerService, settings(self.peer.url + path, **further))
        self.container.start()
        proxies = {one.attr_name: one for one in self.container.dependencies}
        self.billing: HttpProxy = proxies["billing"].get_dependency(None)
        self.also_billing: HttpProxy = proxies["also_billing"].get_dependency(None)

    def stop(self) -> None:
        self.container.stop()
        self.peer.close()

    def put(self) -> Any:
        return self.billing.put("/payments/1", Amount(amount=3), "put_payment").body

    def together(self, number: int) -> list[Any]:
        """Make `number` calls at the same time; return their bodies or errors."""

        def one() -> Any:
            try:
                return self.put()
            except Unavailable as error:
                return error

        with Timeout(LONG_S, HANGS):
            return [thread.wait() for thread in [eventlet.spawn(one) for _ in range(number)]]


@pytest.fixture(autouse=True)
def green(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give urllib3 eventlet's sockets, which it has in a service, where the whole process is patched."""
    monkeypatch.setattr(urllib3.util.connection, "socket", socket)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Starts a peer with its client."""
    started: list[Running] = []

    def start(*behaviours: Behaviour, **further: Any) -> Running:
        started.append(Running(*behaviours, **further))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def eventually(condition: Callable[[], Any], what: str) -> None:
    with Timeout(LONG_S, AssertionError(f"waited in vain for {what}")):
        while not condition():
            eventlet.sleep(0.01)


def counted(operation: str, outcome: str) -> float:
    labels = {"service": "http_caller", "method": f"billing.{operation}", "outcome": outcome}
    return REGISTRY.get_sample_value("shop_rpc_seconds_count", labels) or 0


def test_a_call_carries_the_secret_of_the_services_if_there_is_one(run):
    for further, sent in (({"INTERNAL_TOKEN": "s" * 32}, "Bearer " + "s" * 32), ({}, None)):
        it = run(answer(OK), **further)
        it.put()
        [(_, headers, _)] = it.peer.requests
        assert headers.get("Authorization") == sent


def test_a_put_and_a_get_are_answered_on_one_connection(run):
    it = run(answer({"name": "Ada ☺"}))
    before = counted("put_payment", "replied")
    assert it.billing.put("/payments/1", Amount(amount=3), "put_payment") == (200, {"name": "Ada ☺"})
    assert it.billing.put("/accounts/1", None, "put_account").status == 200
    assert it.billing.get("/users/1", "get_user").body == {"name": "Ada ☺"}
    (put, headers, body), (_, _, nothing), (get, plain, _) = it.peer.requests
    assert (put, get) == ("PUT /payments/1 HTTP/1.1", "GET /users/1 HTTP/1.1")
    assert body.decode() == '{"amount":3,"currency":"€"}' and nothing == b""
    assert headers["Accept"] == plain["Accept"] == headers["Content-Type"] == "application/json"
    assert "Content-Type" not in plain
    assert len(it.peer.connections) == 1
    assert counted("put_payment", "replied") == before + 1


def test_an_address_may_have_a_path(run):
    it = run(answer(OK), path="/inner/")
    it.put()
    assert it.peer.requests[0][0] == "PUT /inner/payments/1 HTTP/1.1"


@pytest.mark.parametrize("status", ["201 Created", "302 Found", "404 Not Found", "409 Conflict"])
def test_a_status_below_500_is_an_answer_and_no_redirect_is_followed(run, status):
    it = run(answer({"title": "It"}, status, "Location: /elsewhere\r\n"))
    assert it.billing.get("/users/1", "get_user") == (int(status[:3]), {"title": "It"})
    assert len(it.peer.requests) == 1


@pytest.mark.parametrize(
    "behaviour, why",
    [
        (answer(b"<html>", "404 Not Found"), "404 is not JSON"),
        (answer(b""), "not JSON"),
        (answer(b"\xff"), "not JSON"),
        (answer(b"[" * 100_000), "not JSON"),
        (answer(b" " * 2**20 + b"1"), "longer than"),
    ],
    ids=["HTML", "empty", "not UTF-8", "deep", "long"],
)
def test_an_answer_that_is_none_is_an_unknown_outcome_that_somebody_should_look_at(run, caplog, behaviour, why):
    it = run(behaviour, answer(OK))
    before = counted("put_payment", "refused")
    with pytest.raises(CallFailed, match=why):
        it.put()
    assert len(it.peer.requests) == 1, "it is not sent again, and nothing is sent elsewhere"
    assert counted("put_payment", "refused") == before + 1
    [line] = [one for one in caplog.records if one.name == module.__name__]
    assert line.levelno == logging.ERROR and "billing.put_payment: the answer" in line.getMessage()
    assert it.put() == OK


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_service_that_cannot_answer_now_is_alive(run, caplog, status):
    it = run(answer({}, f"{status} No"))
    before = counted("put_payment", "failed")
    for _ in range(2 * module.FAILURES):
        with pytest.raises(CallUnavailable, match=f"the answer is {status}"):
            it.put()
    assert len(it.peer.requests) == 2 * module.FAILURES, "each is sent, and once"
    assert counted("put_payment", "failed") == before + 2 * module.FAILURES
    assert {one.levelno for one in caplog.records if one.name == module.__name__} == {logging.WARNING}


@pytest.mark.parametrize("behaviour", [silent, trickle, answer(OK, after_s=LONG_S)])
def test_a_call_that_takes_too_long_is_given_up_and_not_sent_again(run, behaviour):
    it = run(behaviour, answer(OK))
    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"billing\.put_payment was not answered in 0\.4 s"), Timeout(LONG_S, HANGS):
        it.put()
    assert DEADLINE_S <= time.monotonic() - started < DEADLINE_S + SLACK_S
    assert len(it.peer.requests) == 1


@pytest.mark.parametrize("pause_in", ["head", "body"])
def test_a_late_answer_is_not_taken_for_that_of_the_next_call(run, pause_in):
    def late(connection: Any) -> None:
        whole = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"late": 11}'
        sent = 5 if pause_in == "head" else -3
        connection.sendall(whole[:sent])
        eventlet.sleep(DEADLINE_S * 1.2)
        connection.sendall(whole[sent:])

    it = run(late, answer(OK, after_s=DEADLINE_S * 0.3), answer(OK))
    with pytest.raises(NoAnswer):
        it.put()
    assert it.put() == OK
    assert it.put() == OK
    assert len(it.peer.connections) == 2


def test_a_deadline_that_is_the_callers_own_does_not_spoil_a_connection(run):
    class Late(Exception):
        pass

    it = run(silent, silent, silent, silent, answer(OK))
    for _ in range(4):
        with pytest.raises(Late), Timeout(DEADLINE_S / 4, Late()):
            it.put()
    assert [it.put(), *it.together(MAX_CALLS)] == [OK] * (MAX_CALLS + 1), "and every slot is free"


def test_a_connection_that_breaks_before_the_answer_is_replaced_once(run):
    it = run(reset, answer(OK))
    assert it.put() == OK
    assert len(it.peer.requests) == 2
    it.peer.behaviours = [reset]
    with pytest.raises(NoAnswer, match="Connection aborted"):
        it.put()
    assert len(it.peer.requests) == 4


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n",
    ],
)
def test_half_an_answer_is_none_even_if_it_is_json(run, begun):
    it = run(cut(begun), answer(OK))
    assert it.put() == OK
    it.peer.behaviours = [cut(begun)]
    with pytest.raises(NoAnswer, match="IncompleteRead"):
        it.put()
    assert len(it.peer.requests) == 4, "each was sent twice"


def test_what_does_not_speak_http_is_unavailable(run):
    it = run(cut(b"SSH-2.0-OpenSSH\r\n"))
    with pytest.raises(NoAnswer, match="BadStatusLine"):
        it.put()


def test_the_second_attempt_gets_a_new_connection_even_if_several_are_dead(run):
    """The other host was cut off, so that nobody has closed them."""
    it = run(answer(OK, after_s=0.1))
    assert it.together(2) == [OK, OK]
    assert len(it.peer.connections) == 2
    dead = set(it.peer.connections)
    it.peer.behaviours = [lambda connection: reset(connection) if connection in dead else answer(OK)(connection)]
    assert it.put() == OK
    assert len(it.peer.connections) == 3
    assert it.together(3) == [OK] * 3


def test_a_service_that_has_restarted_is_called_on_a_new_connection(run):
    it = run(answer(OK))
    assert it.put() == OK
    it.peer.close()
    it.peer = Peer(answer(OK), port=it.peer.port)
    assert it.put() == OK


def test_few_calls_are_under_way_and_few_connections_open(run):
    it = run(answer(OK, after_s=0.02), RPC_TIMEOUT_S=2.0)
    assert it.together(5 * MAX_CALLS) == [OK] * 5 * MAX_CALLS
    assert it.peer.most_under_way == MAX_CALLS
    assert len(it.peer.connections) == MAX_CALLS
    assert it.also_billing.client is it.billing.client, "whoever calls the service shares them"


@pytest.mark.parametrize("max_workers, limit", [(20, MAX_CALLS), (3, 2), (1, 1)])
def test_some_workers_are_left_for_the_rest(run, max_workers, limit):
    it = run(answer(OK, after_s=0.02), max_workers=max_workers)
    it.together(5)
    assert it.peer.most_under_way == limit


def test_a_call_that_gets_no_slot_soon_is_not_sent(run, monkeypatch):
    monkeypatch.setattr(module, "SLOT_WAIT_S", DEADLINE_S / 4)
    monkeypatch.setattr(module, "FAILURES", 2 * MAX_CALLS)
    it = run(silent)
    under_way = [eventlet.spawn(it.together, 1) for _ in range(MAX_CALLS)]
    eventually(lambda: it.peer.under_way == MAX_CALLS, "the calls")
    started = time.monotonic()
    with pytest.raises(CallUnavailable, match="was not sent: 3 calls are under way"):
        it.put()
    assert time.monotonic() - started < DEADLINE_S
    assert len(it.peer.requests) == MAX_CALLS
    assert [type(error) for thread in under_way for error in thread.wait()] == [NoAnswer] * MAX_CALLS
    it.peer.behaviours = [answer(OK)]
    assert it.together(MAX_CALLS) == [OK] * MAX_CALLS


def outage_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage().partition(" (")[0] for one in caplog.records if one.name == outage.__name__]


def test_a_service_that_is_silent_is_left_alone_until_one_call_gets_an_answer(run, caplog, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.2)
    it = run(silent)
    it.together(module.FAILURES)
    started = time.monotonic()
    assert {str(error) for error in it.together(20)} == {"billing.put_payment was not sent: the service is away"}
    assert time.monotonic() - started < DEADLINE_S
    assert len(it.peer.requests) == module.FAILURES
    it.peer.behaviours = [answer(OK, after_s=0.1)]

    def served() -> bool:
        return OK in it.together(10)

    eventually(served, "the end of the outage")
    assert len(it.peer.requests) == module.FAILURES + 1, "one call probes, while nine fail"
    assert it.together(MAX_CALLS) == [OK] * MAX_CALLS
    assert outage_lines(caplog) == ["calls to billing paused: billing is away"]


def test_a_service_that_is_not_there_is_left_alone(run, caplog):
    it = run(answer(OK))
    it.peer.close()
    for _ in range(module.FAILURES):
        with pytest.raises(NoAnswer, match="ECONNREFUSED"):
            it.put()
    with pytest.raises(CallUnavailable, match="the service is away"):
        it.put()
    assert outage_lines(caplog) == ["calls to billing paused: billing is away"]


@pytest.mark.parametrize("url", [None, ""])
def test_a_service_that_calls_another_does_not_start_without_its_address(url):
    with pytest.raises(SystemExit) as caught:
        Container(CallerService, settings(url))
    assert str(caught.value) == (
        "config.yaml: SERVICE_URLS.billing: should be the address of billing, like http://billing:8000; set BILLING_URL"
    )
    assert Container(type("Alone", (), {"name": "alone"}), settings(url))
