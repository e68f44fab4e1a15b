"""The HTTP server of a service: its connections, and who answers which path."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import eventlet
from eventlet import Timeout
from nameko.web.server import WebServer
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.wrappers import Request, Response

from services.kit.seams import Container
from services.kit.web.compression import compressed
from services.kit.web.cors import Cors
from services.kit.web.documentation import Documentation
from services.kit.web.health import Health
from services.kit.web.problems import Problem, only_reads, too_many, unavailable, unrouted
from services.kit.web.protocol import KEEP_ALIVE_S, LINGER_S, linger, protocol_of, raw
from services.kit.web.request_id import REQUEST_ID, identified
from services.kit.web.sse import Streams

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.1
BACKLOG = 1024  # connections that wait to be accepted
PATH_VALUES = "kit.path_values"  # in the WSGI environment: the values that the path gives to a route's variables
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Server(WebServer):
    """Nameko's web server with problems for errors, limits, draining, health and documentation.

    Without a WEB_SERVER_ADDRESS it does not listen: embedded mode serves `app` on a port of its own.
    """

    container: Container
    _is_accepting: bool
    _starting: bool
    _connections = 0
    _refused = 0

    @property
    def bind_addr(self) -> Any:
        return super().bind_addr if self.container.config["WEB_SERVER_ADDRESS"] else None

    def start(self) -> None:
        self.routes = self.make_url_map().bind("")
        self.cors = Cors(self.container.settings.CORS_ORIGINS)
        self.health = Health(self.container)
        self.streams = Streams(self.container.settings.MAX_STREAMS)
        self.documentation = Documentation(self.container.product)
        if self.bind_addr and not self._starting:
            self._starting = True
            self._sock = eventlet.listen(self.bind_addr, backlog=BACKLOG, reuse_port=False)
            self._sock.settimeout(None)  # wait for connections without a deadline, as Nameko's own server does
            self._serv = self.get_wsgi_server(self._sock, self.get_wsgi_app())
            self._gt = self.container.spawn_managed_thread(self.run)

    def run(self) -> None:
        """Accept connections, MAX_CONNECTIONS at a time. Each further one is answered 503 and closed."""
        limit, limits = self.container.settings.MAX_CONNECTIONS, self.container.limits
        while self._is_accepting:
            try:
                sock, address = self._sock.accept()
            except OSError as error:  # no file handle is left, or the client is gone
                log.warning("a connection was not accepted: %s", error)
                eventlet.sleep(ACCEPT_AGAIN_S)
                continue
            if self._connections >= limit:
                self._refuse(sock, unavailable("The service has too many connections."))
            elif not limits.connect(address[0]):
                self._refuse(sock, too_many("The client has too many connections."))
            else:
                self._serve(sock, address)

    def _serve(self, sock: Any, address: Any) -> None:
        self._connections += 1
        sock.settimeout(self._serv.socket_timeout)
        self.container.spawn_managed_thread(partial(self.process_request, sock, address))

    def process_request(self, sock: Any, address: Any) -> None:
        try:
            super().process_request(sock, address)
        finally:
            self._connections -= 1
            self.container.limits.disconnect(address[0])

    def _refuse(self, sock: Any, problem: Problem) -> None:
        """Answer a connection that is one too many, and close it. Those that are far too many are only closed."""
        if self._refused < self.container.settings.MAX_CONNECTIONS / 10:
            eventlet.spawn_n(self._answer_and_close, sock, problem)
        else:
            sock.close()

    def _answer_and_close(self, sock: Any, problem: Problem) -> None:
        self._refused += 1
        try:
            with Timeout(LINGER_S, TimeoutError()):
                sock.sendall(raw(problem, self.container.product.name))
                linger(sock)
        except OSError:
            pass  # the client is gone, or too slow
        finally:
            sock.close()
            self._refused -= 1

    def drain(self) -> None:
        """End the streams. Accept no more connections; answer requests on the open ones, and close each afterwards.

        Return when no request has come for LINGER_S. The deadline is the container's.
        """
        self.streams.end()
        if self._gt is None or not self._is_accepting:
            return
        self._is_accepting = False
        self.health.is_stopping = True
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
        """Accept the connections that clients have opened already."""
        self._sock.settimeout(0)
        try:
            while True:
                sock, address = self._sock.accept()
                if self.container.limits.connect(address[0]):
                    self._serve(sock, address)
                else:
                    sock.close()
        except OSError:
            return  # none is left

    def stop(self) -> None:
        """Do nothing: the entrypoints have called `drain`."""

    def get_wsgi_app(self) -> WsgiApp:
        return self.app

    def get_wsgi_server(self, sock: Any, wsgi_app: WsgiApp, protocol: Any = None, debug: bool = False) -> Any:
        protocol = protocol or protocol_of(self.container.product.name)
        server = super().get_wsgi_server(sock, wsgi_app, protocol=protocol, debug=debug)
        server.socket_timeout = self.container.settings.REQUEST_TIMEOUT_S
        server.keepalive = KEEP_ALIVE_S
        server.capitalize_response_headers = False  # they are as they should be
        return server

    def make_url_map(self) -> Map:
        url_map = super().make_url_map()
        url_map.merge_slashes = False  # merging would answer with a redirect in HTML
        return url_map

    def app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request: the WSGI application."""
        environ.pop("HTTP_IF_MATCH", None)  # for changes, which there are none; Werkzeug would answer 412
        request = Request(environ)
        with identified(request.headers.get(REQUEST_ID)) as id_:
            response = self.cors.preflight(request) or self._answer(request)
        response = compressed(request, response)
        response.headers[REQUEST_ID] = id_
        self.cors.show(request, response)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if answer := self.health.answers.get(request.path):
            return only_reads(request, self.container.product.name) or answer(request)
        if self.documentation.serves(request.path):
            return self.documentation.answer(request)
        return self.dispatch(request)

    def dispatch(self, request: Request) -> Response:
        """Have the entrypoint of the path and method answer."""
        try:
            entrypoint, request.environ[PATH_VALUES] = self.routes.match(request.path, request.method)
        except HTTPException as error:
            return unrouted(request, error, self.container.product.name)
        return entrypoint.handle_request(request)
