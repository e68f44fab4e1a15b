"""The `http` entrypoint: it checks what comes in, returns a Reply, and turns every error into a problem.

    @http("POST", "/orders", body=NewOrder, answers={201: OrderView, 404: "account-not-found"})
    def create_order(self, key, body): ...

The method gets by name: the values in the path, `key` (the Idempotency-Key of a POST, or None), `body` and `query`.
It runs in a Nameko worker. A request that finds no free worker in time is answered 503.

A route that `waits` honours `Prefer: wait=N` (RFC 7240): its method also gets `wait_s`, and returns what waits as
`Reply.later`, which runs after the worker has ended. A request that waited in a worker could keep busy the very worker
that ends what it waits for.

A route that `streams` is answered with server-sent events where the client asks for them: see `Stream`.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NoReturn, TypeVar

from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.exceptions import ContainerBeingKilled
from nameko.web.handlers import HttpRequestHandler
from pydantic import BaseModel, ValidationError
from werkzeug.wrappers import Request, Response

from services.kit.db.commits import Position
from services.kit.errors import Unavailable
from services.kit.seams import Container
from services.kit.tracing import TRACEPARENT, Kind
from services.kit.web.answers import JsonResponse
from services.kit.web.prefer import PREFER, applied, preferred_wait_s
from services.kit.web.problems import NO_STORE, REPLAYED, Problem, bad_field, from_exception, invalid
from services.kit.web.server import PATH_VALUES, Server
from services.kit.web.sse import LAST_EVENT_ID, wants_stream

log = logging.getLogger(__name__)

CLOSE = {"Connection": "close"}
LAST_S = 1.0  # for what an answer still has to do when its wait is over
IDEMPOTENCY_KEY = "Idempotency-Key"
#: A key of 1 to 255 printable ASCII characters, bare, or as a String of RFC 9651.
KEY_PATTERN = (
    r"[\x21\x23-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?"
    r'|"([\x21\x23-\x5b\x5d-\x7e]|\\["\\])'
    r'(([\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){0,253}([\x21\x23-\x5b\x5d-\x7e]|\\["\\]))?"'
)


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

    `answers` are models by their status, and names of problems.

    `waits`: the answer of this route may be pending, and waits as long as the client prefers. The method gets `wait_s`:
    how many seconds that is, counted from when the request has arrived, or None without a usable preference.
    `ends`: what it shows may never change again, as a Reply that has `ended` says.

    `streams`: the method also gets `as_stream`, whether the client wants a Stream rather than a Reply, and `last`, the
    position that it sends as Last-Event-ID, or None.
    """

    method: str
    path: str
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
            span.set_attribute("http.response.status_code", response.status_code)
        self.container.metrics.requests.labels(self.container.service_name, method, path, response.status_code).observe(
            time.monotonic() - started
        )
        return response

    def _answer(self, request: Request) -> Response:
        arguments = self._arguments(request)
        arrived = time.monotonic()
        wait_s: float | None = None
        if self.route.waits:
            wait_s = arguments["wait_s"] = self._wait_s(request)
        reply = self._run(arguments)
        if isinstance(reply, Stream):
            left_s = max(0.0, arrived + self.container.settings.REQUEST_TIMEOUT_S - time.monotonic())
            with Timeout(left_s, Unavailable("the stream did not begin in time")):
                blocks = reply.begin()
            return self.server.streams.answer(request, blocks)
        if reply.later:
            left_s = max(0.0, arrived + (wait_s or 0.0) - time.monotonic())
            with Timeout(left_s + LAST_S, Unavailable("the answer did not come in time")):
                reply = reply.later(left_s)
        response = reply.response()
        if self.route.streams:
            response.vary.add("Accept")
        response.headers.update({} if wait_s is None else applied(wait_s))
        return response.make_conditional(request) if reply.ended else response

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
            arguments["key"] = _key(request)
        if self.route.streams:
            arguments["as_stream"] = wants_stream(request)
            arguments["last"] = _last(request)
        if self.route.query:
            arguments["query"] = _checked(self.route.query, _query(request))
        if self.route.body:
            arguments["body"] = _checked(self.route.body, _body(request, self.container.settings.BODY_LIMIT_BYTES))
        return arguments


def http(method: str, path: str, **route: Any) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Serve `method` and `path` by the decorated method of a service. See Route for the rest."""

    def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @wraps(function)
        def answer(service: Any, timeout_s: float, arguments: dict[str, Any]) -> Answer:
            with Timeout(timeout_s, Unavailable("the request ran out of time")):
                return function(service, **arguments)

        return Http.decorator(Route(method, path, **route))(answer)

    return decorate


def _key(request: Request) -> str | None:
    """Return the Idempotency-Key, bare or quoted as in draft-ietf-httpapi-idempotency-key-header; None without one."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    sent = [name for name, _ in request.environ.get("headers_raw", ()) if name.lower() == IDEMPOTENCY_KEY.lower()]
    if len(sent) > 1:  # which WSGI has joined to one, by a comma
        raise bad_field(IDEMPOTENCY_KEY, "repeated", "is given twice", 400)
    if not re.fullmatch(KEY_PATTERN, key):
        raise bad_field(
            IDEMPOTENCY_KEY, "malformed", "should be 1 to 255 printable ASCII characters, which may be quoted", 400
        )
    if key.startswith('"'):
        return re.sub(r"\\(.)", r"\1", key[1:-1])
    return key


def _last(request: Request) -> Position | None:
    """Return the position of the last event that the client has got, None if it does not say."""
    last = request.headers.get(LAST_EVENT_ID)
    try:
        return Position.of(last) if last else None
    except ValueError:
        raise bad_field(LAST_EVENT_ID, "malformed", "should be the id of an event", 400) from None


def _query(request: Request) -> dict[str, str]:
    for name, values in request.args.lists():
        if len(values) > 1:
            raise bad_field(name, "repeated", "is given twice", 400)
    return request.args.to_dict()


def _checked(model: type[BaseModel], values: Any) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from None


def _body(request: Request, limit: int) -> Any:
    """Return the parsed JSON body, of up to `limit` bytes, with a Content-Length or in chunks."""
    if request.mimetype != "application/json":
        raise Problem(415, "unsupported-media-type", "Content-Type: should be application/json.")
    try:
        return BODY.decode(_read(request, limit).decode("utf-8"))
    except (ValueError, RecursionError):
        raise Problem(400, "malformed-json", "body: is not well-formed JSON in UTF-8.") from None


def _read(request: Request, limit: int) -> bytes:
    too_long = Problem(413, "body-too-long", f"body: should not be longer than {limit} bytes.", headers=CLOSE)
    if (request.content_length or 0) > limit:
        raise too_long
    try:
        # eventlet's stream ends where the body does, also if it comes in chunks, which Werkzeug's does not read
        body = request.environ["wsgi.input"].read(limit + 1)
    except (OSError, ValueError):
        raise Problem(400, "malformed-body", "body: could not be read to its end.", headers=CLOSE) from None
    if len(body) > limit:
        raise too_long
    if len(body) < (request.content_length or 0):
        raise Problem(400, "malformed-body", "body: is shorter than its Content-Length.", headers=CLOSE)
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            shown = name.encode("ascii", "backslashreplace").decode("ascii")[:100]
            raise bad_field(shown, "repeated", "is given twice", 400)
        values[name] = value
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


BODY = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
