"""The limits of a request: its size, its key and its deadlines."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet import Timeout
from nameko.exceptions import ContainerBeingKilled
from werkzeug.wrappers import Request

from services.kit.errors import Unavailable
from services.kit.web import reading
from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Http, Route, http
from services.kit.web.problems import Problem
from services.kit.web.protocol import MAX_LINE, Body

LONG_S, SHORT_S = 5, 0.05
LIMIT = 1000


class Late(Exception):
    """Nobody has ended the wait."""


def test_an_answer_that_takes_too_long_is_given_up():
    @http("GET", "/", needs=Rule.OPEN, answers={})
    def answer(service: Any) -> Any:
        eventlet.sleep(2 * LONG_S)

    with pytest.raises(Unavailable), Timeout(LONG_S, Late()):
        answer(None, SHORT_S, {})


@pytest.mark.parametrize(
    "spawn_worker",
    [
        lambda *_, **__: eventlet.sleep(2 * LONG_S),
        lambda *_, **__: (_ for _ in ()).throw(ContainerBeingKilled()),
    ],
)
def test_a_request_that_gets_no_worker_is_refused(spawn_worker):
    entrypoint: Any = Http(Route("GET", "/", Rule.OPEN, {}))
    entrypoint.container = SimpleNamespace(
        settings=SimpleNamespace(WORKER_WAIT_S=SHORT_S, REQUEST_TIMEOUT_S=LONG_S), spawn_worker=spawn_worker
    )
    with pytest.raises(Unavailable), Timeout(LONG_S, Late()):
        entrypoint._run({})


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("length, is_taken", [(0, False), (1, True), (255, True), (256, False)])
def test_a_key_has_1_to_255_characters(quote: str, length: int, is_taken: bool):
    request = Request({"HTTP_IDEMPOTENCY_KEY": quote + "k" * length + quote})
    if is_taken:
        assert reading.key_of(request) == "k" * length
    else:
        with pytest.raises(Problem, match="1 to 255"):
            reading.key_of(request)


def test_two_keys_are_no_key_with_a_comma():
    both = {"HTTP_IDEMPOTENCY_KEY": "k,l", "headers_raw": (("idempotency-key", "k"), ("Idempotency-Key", "l"))}
    with pytest.raises(Problem, match="twice"):
        reading.key_of(Request(both))
    one = {"HTTP_IDEMPOTENCY_KEY": "k,l", "headers_raw": (("Idempotency-Key", "k,l"),)}
    assert reading.key_of(Request(one)) == "k,l"


@pytest.mark.parametrize("says_its_length", [True, False])
@pytest.mark.parametrize("length, status", [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413), (2 * LIMIT, 413)])
def test_a_body_has_no_more_bytes_than_the_limit(says_its_length: bool, length: int, status: int):
    """A body without a Content-Length, as in chunks, is measured while it is read."""
    body = BytesIO(b"x" * length)
    request = Request({"wsgi.input": body, **({"CONTENT_LENGTH": str(length)} if says_its_length else {})})
    if status == 200:
        assert len(reading.read(request, LIMIT)) == length
    else:
        with pytest.raises(Problem) as caught:
            reading.read(request, LIMIT)
        assert caught.value.view.status == status
        assert body.tell() <= LIMIT + 1, "no more is read"


def test_a_line_between_the_chunks_of_a_body_has_to_end():
    """eventlet would keep it in memory, whatever its length, until the deadline."""
    body = Body(BytesIO(b"a;" + b"x" * (MAX_LINE - 4) + b"\n" + b"1" * 2 * MAX_LINE))
    assert body.readline().startswith(b"a;x")
    with pytest.raises(OSError, match="too long"):
        body.readline()
