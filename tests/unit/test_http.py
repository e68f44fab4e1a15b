"""The deadlines of a request: for a worker, and for its answer."""
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet import Timeout
from nameko.exceptions import ContainerBeingKilled

from services.common.http import Http, Route, http
from services.common.problems import Unavailable

LONG_S, SHORT_S = 5, 0.05


class Late(Exception):
    """Nobody has ended the wait."""


def test_an_answer_that_takes_too_long_is_given_up():
    @http("GET", "/", answers={})
    def answer(service: Any) -> Any:
        eventlet.sleep(2 * LONG_S)

    with pytest.raises(Unavailable), Timeout(LONG_S, Late()):
        answer(None, SHORT_S, {})


@pytest.mark.parametrize("spawn_worker", [
    lambda *_, **__: eventlet.sleep(2 * LONG_S),
    lambda *_, **__: (_ for _ in ()).throw(ContainerBeingKilled()),
])
def test_a_request_that_gets_no_worker_is_refused(spawn_worker):
    entrypoint: Any = Http(Route("GET", "/", {}))
    entrypoint.container = SimpleNamespace(
        settings=SimpleNamespace(WORKER_WAIT_S=SHORT_S, REQUEST_TIMEOUT_S=LONG_S), spawn_worker=spawn_worker)
    with pytest.raises(Unavailable), Timeout(LONG_S, Late()):
        entrypoint._run({})
