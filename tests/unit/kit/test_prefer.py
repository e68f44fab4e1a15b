"""`Prefer: wait=N`: how it is read, and how long a request waits, without a worker."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.containers import ServiceContainer
from pydantic import BaseModel
from werkzeug.wrappers import Request, Response

from services.kit.config import check
from services.kit.errors import Unavailable
from services.kit.metrics import metrics_of
from services.kit.product import Product
from services.kit.tracing import Tracer
from services.kit.web import entrypoint as module
from services.kit.web.auth.guard import Guard
from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Reply, http
from services.kit.web.limits.limits import Limits
from services.kit.web.prefer import preferred_wait_s
from services.kit.web.problems import nothing_here
from services.kit.web.server import PATH_VALUES
from tests.unit.kit.test_config import config

LONG_S, SHORT_S = 5, 0.05
APPLIED = "Preference-Applied"


class View(BaseModel):
    text: str


PENDING, FINAL = Reply(202, View(text="pending")), Reply(201, View(text="final"))


class Late(Exception):
    """Nobody has ended the wait."""


@pytest.mark.parametrize(
    "header, seconds",
    [
        (None, None),
        ("", None),
        ("wait=10", 10),
        ("wait=0", 0),
        ("wait=007", 7),
        ("WAIT=10", 10),
        ('wait="10"', 10),
        ("wait = 10", 10),
        ("wait=10; foo; bar=5", 10),
        ('wait="10";foo="a,b"', 10),
        ("respond-async, wait=10", 10),
        ("respond-async,,wait=10,", 10),
        ('foo="a, wait=3", wait=10', 10),
        ('foo="a; wait=3"; wait=4, wait=10', 10),
        ("wait=10, wait=20", 10),
        ("wait=soon, wait=20", None),
        ("wait, wait=20", None),
        ("wait", None),
        ("wait=", None),
        ('wait=""', None),
        ("wait=-1", None),
        ("wait=+1", None),
        ("wait=1.5", None),
        ("wait=1 0", None),
        ("wait=1_0", None),
        ("wait=\u00b2", None),
        ("wait=\u0661", None),
        ("wait=999999999", 999_999_999),
        ("wait=" + "9" * 10_000, None),
        ('wait="10', None),
        ("respond-async", None),
        ("waiting=10", None),
        ("=10", None),
        ("foo;wait=10", None),
    ],
)
def test_a_wait_is_read_as_the_rfc_says_and_ignored_otherwise(header: str | None, seconds: int | None):
    assert preferred_wait_s(header) == seconds


def service(first: Callable[..., Reply], timeout_s: float = LONG_S) -> Callable[..., Response]:
    """Return how to send requests to a service with one worker, whose route `/` waits, and `/other` does not."""

    class Service:
        name = "unit"

        @http("POST", "/", needs=Rule.OPEN, answers={201: View, 202: View}, waits=True)
        def first(self, key: str | None, wait_s: float | None) -> Reply:
            return first(wait_s)

        @http("GET", "/other", needs=Rule.OPEN, answers={201: View})
        def other(self) -> Reply:
            return FINAL

    container: Any = ServiceContainer(Service, {"max_workers": 1, "WEB_SERVER_ADDRESS": None})
    container.settings = SimpleNamespace(WORKER_WAIT_S=1.0, REQUEST_TIMEOUT_S=timeout_s)
    container.tracer = Tracer()
    container.guard, container.limits = Guard(check(config())), Limits(check(config()))
    container.metrics, container.product = metrics_of("unit"), Product("unit")

    def send(prefer: str | None = None, path: str = "/") -> Response:
        environ: dict[str, Any] = {PATH_VALUES: {}} | ({"HTTP_PREFER": prefer} if prefer is not None else {})
        [entrypoint] = [one for one in container.entrypoints if one.route.path == path]
        with Timeout(2 * LONG_S, Late()):
            answer: Response = entrypoint.handle_request(Request(environ))
        return answer

    return send


def seen(answer: Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.get_data(as_text=True), answer.headers.get(APPLIED)


def test_a_request_that_waits_leaves_its_worker_to_others():
    ended = Signal()

    def wait(seconds: float) -> Reply:
        return ended.wait(seconds) or PENDING

    send = service(lambda wait_s: Reply(202, View(text="pending"), later=wait))
    waiting = [eventlet.spawn(send, f"wait={LONG_S}") for _ in range(3)]
    eventlet.sleep(0)
    assert send(path="/other").status_code == 201, "the one worker is free"
    assert not any(thread.dead for thread in waiting)
    ended.send(FINAL)
    assert [seen(thread.wait()) for thread in waiting] == [(201, '{"text":"final"}', f"wait={LONG_S}")] * 3


@pytest.mark.parametrize(
    "prefer, wait_s, applied",
    [
        (None, None, None),
        ("wait=soon", None, None),
        ("wait=0", 0, "wait=0"),
        ("wait=2", 2, "wait=2"),
        ("wait=99", 3.5, "wait=3"),
    ],
)
def test_the_wait_is_what_the_client_prefers_within_the_deadline(
    prefer: str | None, wait_s: float | None, applied: str | None
):
    asked: list[float | None] = []
    given: list[float] = []

    def method(seconds: float | None) -> Reply:
        asked.append(seconds)
        return Reply(202, View(text="pending"), later=lambda seconds: given.append(seconds) or PENDING)

    assert seen(service(method, timeout_s=3.5)(prefer)) == (202, '{"text":"pending"}', applied)
    assert asked == [wait_s]
    [seconds] = given
    assert seconds == 0 if not wait_s else wait_s - 1 < seconds <= wait_s


def test_a_final_answer_says_that_the_preference_was_applied():
    assert seen(service(lambda wait_s: FINAL)("wait=2")) == (201, '{"text":"final"}', "wait=2")


def test_a_route_that_does_not_wait_ignores_the_preference():
    assert seen(service(lambda wait_s: FINAL)("wait=2", "/other")) == (201, '{"text":"final"}', None)


def test_what_the_worker_has_taken_is_no_longer_there_to_wait():
    given: list[float] = []

    def method(wait_s: float | None) -> Reply:
        eventlet.sleep(2 * SHORT_S)
        return Reply(202, View(text="pending"), later=lambda seconds: given.append(seconds) or PENDING)

    service(method)("wait=1")
    assert 0 < given[0] <= 1 - 2 * SHORT_S


@pytest.mark.parametrize("error, status", [(nothing_here(), 404), (Unavailable(), 503), (KeyError("text"), 500)])
def test_an_error_while_waiting_is_a_problem(error: Exception, status: int):
    def wait(seconds: float) -> Reply:
        raise error

    answer = service(lambda wait_s: Reply(202, View(text="pending"), later=wait))("wait=1")
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")


@pytest.mark.parametrize("prefer", [None, "wait=99"])
def test_an_answer_comes_a_little_after_the_deadline_at_the_latest(monkeypatch: pytest.MonkeyPatch, prefer: str | None):
    monkeypatch.setattr(module, "LAST_S", SHORT_S)
    send = service(lambda wait_s: Reply(202, View(text="pending"), later=lambda _: eventlet.sleep(LONG_S)), SHORT_S)
    began = time.monotonic()
    assert send(prefer).status_code == 503
    assert time.monotonic() - began < LONG_S / 2


def test_a_last_statement_has_time_after_the_wait():
    def wait(seconds: float) -> Reply:
        eventlet.sleep(seconds + SHORT_S)
        return PENDING

    send = service(lambda wait_s: Reply(202, View(text="pending"), later=wait), 2 * SHORT_S)
    assert send("wait=1").status_code == 202


def test_the_metric_of_the_request_includes_the_wait():
    def measured() -> float:
        labels = ("unit", "POST", "/", 202)
        return float(metrics_of("unit").requests.labels(*labels)._sum.get())

    def wait(seconds: float) -> Reply:
        eventlet.sleep(SHORT_S)
        return PENDING

    before = measured()
    service(lambda wait_s: Reply(202, View(text="pending"), later=wait))("wait=1")
    assert measured() - before >= SHORT_S
