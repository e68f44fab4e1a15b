"""The gateway: one base URL, behind which each request goes to the service of its path."""

import http.client
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any

from eventlet import Timeout, wsgi
from werkzeug.wrappers import Request, Response

from services.kit.web.documentation import Documentation
from services.kit.web.health import live
from services.kit.web.limits.addresses import FORWARDED_FOR
from services.kit.web.problems import RETRY_AFTER, Problem, nothing_here, only_reads, unavailable
from services.kit.web.protocol import KEEP_ALIVE_S, protocol_of
from services.kit.web.request_id import REQUEST_ID, identified
from services.kit.web.sse import CONTENT_TYPE, HEARTBEAT_S, unbuffered
from services.local.net import HOST
from services.shop import INTERNAL_ROUTES, ROUTES, SHOP

log = logging.getLogger(__name__)

HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}  # RFC 9110, section 7.6.1

PAGE = "/page/"  # what the paths of the page begin with, besides these:
PAGE_PATHS = ("/", "/v1/traces")

LOST_S = 3 * HEARTBEAT_S  # after which a stream is given up that brings nothing
BLOCK_BYTES = 65_536  # of a stream at a time

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Gateway:
    """A WSGI application that hands each request to the application of its service.

    `routes` has the service of each first part of a path, or of the first two; `own` the paths that it answers itself.
    `page` answers what is the page's, if one is served.
    """

    def __init__(
        self,
        apps: dict[str, WsgiApp],
        own: dict[str, WsgiApp],
        routes: dict[str, str] = ROUTES,
        page: WsgiApp | None = None,
    ) -> None:
        self.apps = apps
        self.own = own
        self.routes = routes
        self.page = page

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if self.page and (path in PAGE_PATHS or path.startswith(PAGE)):
            return self.page(environ, start_response)
        first, *others = path[1:].split("/")
        service = self.routes.get(first) or self.routes.get("/".join([first, *others[:1]]))
        app = self.apps[service] if service else self._own(environ)
        with identified(environ.get("HTTP_X_REQUEST_ID")) as id_:
            environ["HTTP_X_REQUEST_ID"] = id_

            def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                known = any(name == REQUEST_ID for name, _ in headers)  # else the answer is our own
                return start_response(status, headers if known else [*headers, (REQUEST_ID, id_)], *more)

            return app(environ, start)

    def _own(self, environ: dict[str, Any]) -> WsgiApp:
        """Return what answers a path that is no service's. There is nothing to change there."""
        app = self.own.get(environ["PATH_INFO"], not_routed)
        return app if app is not_routed else only_reads(Request(environ), SHOP.name) or app


def not_routed(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return nothing_here().response(SHOP.name)(environ, start_response)


def ready(ask: dict[str, Callable[[], bool]]) -> WsgiApp:
    """Return an application that answers 200 if every one of the services is ready, else 503."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        waiting = [name for name, is_ready in ask.items() if not is_ready()]
        if waiting:
            problem = Problem(503, "not-ready", f"{', '.join(waiting)}: not ready", headers=RETRY_AFTER)
            return problem.response(SHOP.name)(environ, start_response)
        return Response(json.dumps({"status": "ready"}), content_type="application/json")(environ, start_response)

    return app


class Backend:
    """The application of a service that runs in processes of its own, on ports of this machine.

    A replica that refuses the connection has not seen the request, so the next one gets it. A replica that breaks the
    connection off may have seen it: the next one gets it only if the request has one effect however often it is sent
    (RFC 9110, section 9.2.2; draft-ietf-httpapi-idempotency-key-header).
    """

    def __init__(self, service: str, ports: list[int], timeout_s: float, body_limit: int = 0) -> None:
        self.service = service
        self.ports = deque(ports)
        self.timeout_s = timeout_s
        self.body_limit = body_limit

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            # a little more than the limit, so that the service itself refuses what is too long
            with Timeout(self.timeout_s, TimeoutError("the body did not arrive in time")):
                body = environ["wsgi.input"].read(self.body_limit + 1)
        except TimeoutError:
            problem = Problem(
                408, "request-timeout", "The request did not arrive in time.", headers={"Connection": "close"}
            )
            return problem.response(SHOP.name)(environ, start_response)
        except (OSError, ValueError):
            problem = Problem(400, "malformed-body", "body: could not be read to its end.")
            return problem.response(SHOP.name)(environ, start_response)
        try:
            response = self.forward(Request(environ), body)
        except ConnectionRefusedError:
            log.warning("%s does not run", self.service)
            response = Problem(
                503,
                "unavailable",
                f"{self.service} does not run now. Nothing was done: send it again, "
                "with the same Idempotency-Key if it has one.",
                headers={"Retry-After": "1"},
            ).response(SHOP.name)
        except (OSError, http.client.HTTPException) as error:
            log.warning("%s does not answer: %s", self.service, type(error).__name__)
            response = unavailable(f"{self.service} does not answer now.").response(SHOP.name)
        return response(environ, start_response)

    def forward(self, request: Request, body: bytes) -> Response:
        """Forward a request and return its answer. Raises ConnectionRefusedError if no replica has seen the request."""
        replaced = {*HOP_BY_HOP, "content-length", REQUEST_ID.lower(), FORWARDED_FOR.lower()}
        headers = [(name, value) for name, value in request.environ["headers_raw"] if name.lower() not in replaced]
        headers += [("Content-Length", str(len(body))), (REQUEST_ID, request.environ["HTTP_X_REQUEST_ID"])]
        headers.append((FORWARDED_FOR, request.remote_addr or "unknown"))
        query = request.environ.get("QUERY_STRING")
        path = request.environ["RAW_PATH_INFO"] + (f"?{query}" if query else "")
        may_repeat = request.method in ("GET", "HEAD", "PUT") or "Idempotency-Key" in request.headers
        failure: Exception = ConnectionRefusedError()  # unless a replica may have seen it
        for port in self._in_turn():
            try:
                with ExitStack() as stack:
                    connection = http.client.HTTPConnection(HOST, port, timeout=self.timeout_s)
                    stack.enter_context(closing(connection)).connect()
                    sock = connection.sock
                    connection.putrequest(request.method, path, "Host" in request.headers, skip_accept_encoding=True)
                    for name, value in headers:  # one by one: a header that comes twice is refused by the service
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
                    if answer.getheader("Content-Type", "").startswith(CONTENT_TYPE):
                        sock.settimeout(LOST_S)
                        blocks = passed_on(answer, stack.pop_all())
                        return Response(unbuffered(request, blocks), answer.status, kept)
                    return Response([answer.read()], answer.status, kept)  # with the Content-Length of a HEAD
            except ConnectionRefusedError:
                continue
            except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected) as error:
                failure = error
                if not may_repeat:
                    break
        raise failure

    def _in_turn(self) -> list[int]:
        """Return the ports of all replicas, a different one first each time."""
        ports = list(self.ports)
        self.ports.rotate(-1)
        return ports

    def is_ready(self) -> bool:
        """Ask the service itself whether it is ready."""
        return bool(self.health())

    def health(self) -> dict[str, str]:
        """Return the body of the answer of `/health/ready`; empty if the service is not ready."""
        [port, *_] = self._in_turn()
        try:
            with closing(http.client.HTTPConnection(HOST, port, timeout=self.timeout_s)) as connection:
                connection.request("GET", "/health/ready")
                answer = connection.getresponse()
                return dict(json.load(answer)) if answer.status == 200 else {}
        except (OSError, ValueError, http.client.HTTPException):
            return {}


def passed_on(answer: http.client.HTTPResponse, connection: ExitStack) -> Iterator[bytes]:
    """Return the blocks of a stream as they come, until one of the two sides ends it."""
    with connection:
        try:
            while block := answer.read1(BLOCK_BYTES):
                yield block
        except (OSError, http.client.HTTPException) as error:
            log.info("a stream has ended: %s", type(error).__name__)


def serve(
    listener: Any,
    ports: dict[str, list[int]],
    timeout_s: float,
    body_limit: int,
    connections: int,
    is_internal: bool = False,
    page: WsgiApp | None = None,
) -> None:
    """Serve the gateway on `listener` until the process is ended; run under `eventlet.monkey_patch()`.

    The internal one is for services only, and forwards nothing else than what they call. `page` is what is served at /,
    if not the documentation.
    """
    backends = {service: Backend(service, ports_, timeout_s, body_limit) for service, ports_ in ports.items()}
    gateway = Gateway(
        dict(backends),
        own={
            "/": lambda environ, start: Documentation(SHOP).answer(Request(environ))(environ, start),
            "/health/live": lambda environ, start: live(Request(environ))(environ, start),
            "/health/ready": ready({service: backend.is_ready for service, backend in backends.items()}),
        },
        routes=INTERNAL_ROUTES if is_internal else ROUTES,
        page=page,
    )
    wsgi.server(
        listener,
        gateway,
        max_size=connections,
        protocol=protocol_of(SHOP.name),
        log_output=False,
        debug=False,
        socket_timeout=timeout_s,
        keepalive=KEEP_ALIVE_S,
    )
