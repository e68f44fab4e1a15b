"""The HTTP server of a service: its routes, its health, its metrics and the API's documentation.

Health, metrics and documentation are answered here and not by entrypoints, so that they answer also when
every worker is busy.
"""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import eventlet
from eventlet import Timeout
from nameko.web.server import WebServer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.wrappers import Request, Response

from services.kit.amqp.publisher import Publisher
from services.kit.db.database import Database
from services.kit.errors import Unavailable
from services.kit.web.documentation import Documentation
from services.kit.web.problems import RETRY_AFTER, Problem, routing_problem, unavailable
from services.kit.web.protocol import protocol_of, raw

log = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 2
ASK_BROKER_EVERY_S = 2
LINGER_S = 0.3
FULL_AGAIN_S = 0.1
BACKLOG = 1024  # connections that wait to be accepted
PATH_VALUES = "kit.path_values"  # in the WSGI environment: the values that the path of a route names
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Server(WebServer):
    """Nameko's web server with our errors, limits, health and documentation.

    With no WEB_SERVER_ADDRESS it does not listen: embedded mode serves `app` on a port of its own.
    """

    publisher = Publisher()
    _is_accepting: bool
    _starting: bool
    _broker_is_up = False
    _watching: Any = None
    _connections = 0
    _refused = 0

    @property
    def bind_addr(self) -> Any:
        return super().bind_addr if self.container.config["WEB_SERVER_ADDRESS"] else None

    def start(self) -> None:
        self.url_map = self.make_url_map()
        self._watching = self.container.spawn_managed_thread(self._watch_broker)
        if self.bind_addr and not self._starting:
            self._starting = True
            self._sock = eventlet.listen(self.bind_addr, backlog=BACKLOG, reuse_port=False)
            self._sock.settimeout(None)  # accept for ever, see Nameko's own server
            self._serv = self.get_wsgi_server(self._sock, self.get_wsgi_app())
            self._gt = self.container.spawn_managed_thread(self.run)

    def run(self) -> None:
        """Accept connections, MAX_CONNECTIONS at a time; one that is too many is told so, and closed."""
        limit = self.container.settings.MAX_CONNECTIONS
        while self._is_accepting:
            try:
                sock, address = self._sock.accept()
            except OSError as error:  # no file handle is left, or the client has gone already
                log.warning("a connection was not accepted: %s", error)
                eventlet.sleep(FULL_AGAIN_S)
                continue
            if self._connections < limit:
                self._serve(sock, address)
            elif self._refused < limit / 10:
                eventlet.spawn_n(self._refuse, sock)
            else:
                sock.close()

    def _serve(self, sock: Any, address: Any) -> None:
        self._connections += 1
        sock.settimeout(self._serv.socket_timeout)
        self.container.spawn_managed_thread(partial(self.process_request, sock, address))

    def process_request(self, sock: Any, address: Any) -> None:
        try:
            super().process_request(sock, address)
        finally:
            self._connections -= 1

    def _refuse(self, sock: Any) -> None:
        """Answer 503, and wait a moment for the client to have it: closing at once would take it back."""
        self._refused += 1
        try:
            with Timeout(LINGER_S, TimeoutError()):
                sock.sendall(raw(unavailable("The service has too many connections."), self.container.product.name))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    pass
        except OSError:
            pass  # it is closed anyhow
        finally:
            sock.close()
            self._refused -= 1

    def drain(self) -> None:
        """Accept no more connections, answer what comes on those there are, and close each after its answer.

        Returns when nothing has come for LINGER_S. The deadline is the container's.
        """
        if self._gt is None or not self._is_accepting:
            return
        self._is_accepting = False
        self._gt.kill()
        self._accept_waiting()
        self._sock.close()
        self._serv.keepalive = False  # answers say `Connection: close` from now on
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < LINGER_S:
            eventlet.sleep(LINGER_S / 10)
            if self._serv.outstanding_requests:
                quiet_since = time.monotonic()

    def _accept_waiting(self) -> None:
        """Accept the connections that clients have made already."""
        self._sock.settimeout(0)
        try:
            while True:
                self._serve(*self._sock.accept())
        except OSError:
            return  # nobody is waiting

    def stop(self) -> None:
        """End; `drain` has been called by the entrypoints."""
        if self._watching is not None:
            self._watching.kill()

    def get_wsgi_app(self) -> WsgiApp:
        return self.app

    def get_wsgi_server(self, sock: Any, wsgi_app: WsgiApp, protocol: Any = None, debug: bool = False) -> Any:
        protocol = protocol or protocol_of(self.container.product.name)
        server = super().get_wsgi_server(sock, wsgi_app, protocol=protocol, debug=debug)
        server.socket_timeout = self.container.settings.REQUEST_TIMEOUT_S
        server.keepalive = 60
        return server

    def make_url_map(self) -> Map:
        url_map = super().make_url_map()
        url_map.merge_slashes = False  # it would answer with a redirect in HTML
        return url_map

    def app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """The WSGI application."""
        request = Request(environ)
        own = {"/health/live": live, "/health/ready": self.ready, "/metrics": show_metrics}.get(request.path)
        documentation = Documentation(self.container.product)
        if documentation.serves(request.path):
            own = documentation.answer
        return (own(request) if own else self.dispatch(request))(environ, start_response)

    def dispatch(self, request: Request) -> Response:
        """Answer by the entrypoint of the path and method."""
        try:
            entrypoint, request.environ[PATH_VALUES] = self.url_map.bind_to_environ(request.environ).match()
        except HTTPException as error:
            return routing_problem(error).response(self.container.product.name)
        return entrypoint.handle_request(request)

    def ready(self, request: Request | None = None) -> Response:
        """The service can do something useful: its database can be written to, asked now, and it is not about to stop.

        Without the broker it still can, so its state is only told, as of the last time that it was asked.
        """
        if not self._is_accepting:
            return self._not_ready("the service is stopping")
        if why := _failure(self._ask_database):
            log.warning("not ready: the database: %s", why)
            return self._not_ready("the database does not answer, or cannot be written to")
        return _json({"status": "ready", "broker": "up" if self._broker_is_up else "away"})

    def _not_ready(self, why: str) -> Response:
        return Problem(503, "not-ready", why, headers=RETRY_AFTER).response(self.container.product.name)

    def _ask_database(self) -> None:
        for extension in self.container.dependencies:
            if isinstance(extension, Database):
                extension.check_writable()

    def _watch_broker(self) -> None:
        """Ask the broker for a sign of life over and over, so that nobody has to wait for it who wants to know."""
        while True:
            why = _failure(self.publisher.check)
            if self._broker_is_up and why:
                log.warning("the broker is away: %s", why)
            elif not self._broker_is_up and not why:
                log.info("the broker is there")
            self._broker_is_up = not why
            self.container.metrics.broker_up.labels(self.container.service_name).set(self._broker_is_up)
            eventlet.sleep(ASK_BROKER_EVERY_S)


def live(request: Request) -> Response:
    """The process runs and its event loop turns."""
    return _json({"status": "live"})


def show_metrics(request: Request) -> Response:
    """Everything that this process counts, for Prometheus."""
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _failure(ask: Callable[[], None]) -> str:
    """What went wrong when it was asked, in a word; nothing if it answered in time."""
    try:
        with Timeout(HEALTH_TIMEOUT_S, Unavailable("no answer")):
            ask()
    except Exception as error:
        return type(error).__name__
    return ""


def _json(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), content_type="application/json")
