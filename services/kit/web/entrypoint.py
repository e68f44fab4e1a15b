"""The `http` entrypoint: it checks what comes in, returns a Reply, and turns every error into a problem.

    @http(
        "POST",
        "/orders",
        needs=Needs("orders:write", Owner.BODY, missing=no_account),
        body=NewOrder,
        answers={201: OrderView, 404: "account-not-found"},
    )
    def create_order(self, key, body): ...

Each route says what it `needs`, see `auth.rules`. A token is asked for if AUTH is on.

The method gets by name: the values in the path, `key` (the Idempotency-Key of a POST, or None), `body` and `query`.
It runs in a Nameko worker. A request that finds no free worker in time is answered 503.

A route that `waits` honours `Prefer: wait=N` (RFC 7240): its method also gets `wait_s`, and returns what waits as
`Reply.later`, which runs after the worker has ended. A request that waited in a worker could keep busy the very worker
that ends what it waits for.

A route that `streams` is answered with server-sent events where the client asks for them: see `Stream`.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, TypeVar

from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.exceptions import ContainerBeingKilled
from nameko.web.handlers import HttpRequestHandler
from pydantic import BaseModel
from werkzeug.wrappers import Request, Response

from services.kit.config import Settings
from services.kit.errors import Unavailable
from services.kit.seams import Container
from services.kit.tracing import TRACEPARENT, Kind
from services.kit.web.answers import JsonResponse
from services.kit.web.auth.caller import Caller
from services.kit.web.auth.internal import check_internal
from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.prefer import PREFER, applied, preferred_wait_s
from services.kit.web.problems import NO_STORE, REPLAYED, Problem, from_exception
from services.kit.web.reading import CLOSE, body_of, checked, key_of, last_of, query_of
from services.kit.web.server import PATH_VALUES, Server
from services.kit.web.sse import wants_stream

log = logging.getLogger(__name__)

LAST_S = 1.0  # for what an answer still has to do when its wait is over


@dataclass(frozen=True)
class Reply:
    """An answer with a JSON body. `replayed` means that the Idempotency-Key had been used before, `ended` that what it
    shows never changes again, so that a client may ask whether it still has it (ETag, RFC 9110, section 8.8.3).

    `later` is for an answer that is not final yet: it waits, for so many seconds at most, and returns the answer as it
    is then. It is called once, with 0.0 if there is no time to wait, and has LAST_S more for a last statement.
    """

    status: int
    body: BaseModel
    headers: dict[str, str] = field(default_factory=dict)
    replayed: bool = False
    ended: bool = False
    later: "Callable[[float], Reply] | None" = None

    def response(self) -> Response:
        headers = NO_STORE | self.headers | ({REPLAYED: "true"} if self.replayed else {})
        response = JsonResponse(self.body.model_dump_json(), self.status, headers)
        if self.ended:
            response.add_etag()
            response.headers["Cache-Control"] = "private, no-cache"
        return response


@dataclass(frozen=True)
class Stream:
    """An answer that goes on, without a worker: server-sent events.

    `begin` returns them. It is called once, after the worker has ended: when many clients come back at once, they need
    not take turns at the workers.
    """

    begin: Callable[[], Iterable[bytes]]


Answer = TypeVar("Answer", Reply, Reply | Stream)


@dataclass(frozen=True)
class Route:
    """What an entrypoint takes and answers. It is checked for each request, and described in the OpenAPI.

    `needs` is what its sender has to show. `answers` are models by their status, and names of problems.

    `waits`: the answer of this route may be pending, and waits as long as the client prefers. The method gets `wait_s`:
    how many seconds that is, counted from when the request has arrived, or None without a usable preference.
    `ends`: what it shows may never change again, as a Reply that has `ended` says.

    `streams`: the method also gets `as_stream`, whether the client wants a Stream rather than a Reply, and `last`, the
    position that it sends as Last-Event-ID, or None.
    """

    method: str
    path: str
    needs: Needs | Rule
    answers: dict[int, type[BaseModel] | str]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    summary: str = ""
    waits: bool = False
    ends: bool = False
    streams: bool = False


class Http(HttpRequestHandler):
    """Nameko's HTTP entrypoint with a deadline, a limit of the body's size, and problems for errors."""

    container: Container
    server = Server()

    def __init__(self, route: Route) -> None:
        self.route = route
        self._name = f"{route.method} {route.path}"  # of the span of a request, as are:
        self._attributes = {"http.request.method": route.method, "http.route": route.path, "url.scheme": "http"}
        super().__init__(route.method, route.path)

    def check(self, settings: Settings) -> None:
        """Raise BadConfiguration if services have no secret to know each other by, and users have tokens."""
        if self.route.needs is Rule.SERVICES:
            check_internal(settings)

    def stop(self) -> None:
        self.server.drain()
        super().stop()

    def handle_request(self, request: Request) -> Response:
        """Answer one request within the deadlines of the configuration, also if the method fails."""
        started = time.monotonic()
        method, path = self.route.method, self.route.path
        context = request.headers.get(TRACEPARENT)
        with self.container.tracer.span(self._name, Kind.SERVER, context, attributes=self._attributes) as span:
            try:
                response = self._answer(request)
            except Exception as error:
                problem = from_exception(error, self.container.product.problems)
                if problem.view.status == 500:  # neither a mistake of the client nor an outage
                    log.exception("%s %s failed", method, path)
                if problem.view.status >= 500:
                    self.container.tracer.fail(span, error)
                response = problem.response(self.container.product.name)
            self.container.limits.show(request, response)
            span.set_attribute("http.response.status_code", response.status_code)
        self.container.metrics.requests.labels(self.container.service_name, method, path, response.status_code).observe(
            time.monotonic() - started
        )
        return response

    def _answer(self, request: Request) -> Response:
        needs = self.route.needs
        caller = self._let_in(request)
        arguments = self._arguments(request)
        if isinstance(needs, Needs):
            needs.narrow(caller, arguments)
        arrived = time.monotonic()
        wait_s: float | None = None
        if self.route.waits:
            wait_s = arguments["wait_s"] = self._wait_s(request)
        reply = self._run(arguments)
        if isinstance(reply, Stream):
            left_s = max(0.0, arrived + self.container.settings.REQUEST_TIMEOUT_S - time.monotonic())
            with Timeout(left_s, Unavailable("the stream did not begin in time")):
                blocks = reply.begin()
            return self.server.streams.answer(request, caller.while_good(blocks))
        if isinstance(needs, Needs):
            needs.show(caller, reply.body)
        if reply.later:
            left_s = max(0.0, arrived + (wait_s or 0.0) - time.monotonic())
            with Timeout(left_s + LAST_S, Unavailable("the answer did not come in time")):
                reply = reply.later(left_s)
        response = reply.response()
        if self.route.streams:
            response.vary.add("Accept")
        response.headers.update({} if wait_s is None else applied(wait_s))
        return response.make_conditional(request) if reply.ended else response

    def _let_in(self, request: Request) -> Caller:
        """Return who sends a request. Raise a Problem if they may not, or if they, but no service, send too many."""
        admit = partial(self.container.guard.admit, request, self.route.needs)
        return admit() if self.route.needs is Rule.SERVICES else self.container.limits.let_in(request, admit)

    def _wait_s(self, request: Request) -> float | None:
        preferred = preferred_wait_s(request.headers.get(PREFER))
        return None if preferred is None else min(float(preferred), self.container.settings.REQUEST_TIMEOUT_S)

    def _run(self, arguments: dict[str, Any]) -> Any:
        settings = self.container.settings
        done = Signal()
        # a browser that is refused a stream does not come back, so it rather waits; MAX_CONNECTIONS limits how many do
        patience_s = settings.REQUEST_TIMEOUT_S if arguments.get("as_stream") else settings.WORKER_WAIT_S
        try:
            with Timeout(patience_s, Unavailable("no worker was free")):
                self.container.spawn_worker(
                    self, (settings.REQUEST_TIMEOUT_S, arguments), {}, handle_result=partial(self.handle_result, done)
                )
        except ContainerBeingKilled:
            raise Unavailable("the service is stopping") from None
        return done.wait()

    def _arguments(self, request: Request) -> dict[str, Any]:
        """Read the request within REQUEST_TIMEOUT_S, and return the arguments of the method."""
        too_slow = Problem(408, "request-timeout", "The request did not arrive in time.", headers=CLOSE)
        with Timeout(self.container.settings.REQUEST_TIMEOUT_S, too_slow):
            return self._read(request)

    def _read(self, request: Request) -> dict[str, Any]:
        arguments = dict(request.environ[PATH_VALUES])
        if self.route.method == "POST":
            arguments["key"] = key_of(request)
        if self.route.streams:
            arguments["as_stream"] = wants_stream(request)
            arguments["last"] = last_of(request)
        if self.route.query:
            arguments["query"] = checked(self.route.query, query_of(request))
        if self.route.body:
            arguments["body"] = checked(self.route.body, body_of(request, self.container.settings.BODY_LIMIT_BYTES))
        return arguments


def http(
    method: str, path: str, *, needs: Needs | Rule, **route: Any
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Serve `method` and `path` by the decorated method of a service. See Route for the rest."""

    def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @wraps(function)
        def answer(service: Any, timeout_s: float, arguments: dict[str, Any]) -> Answer:
            with Timeout(timeout_s, Unavailable("the request ran out of time")):
                return function(service, **arguments)

        return Http.decorator(Route(method, path, needs, **route))(answer)

    return decorate
