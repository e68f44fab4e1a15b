"""HTTP on one connection: deadlines that hold however slowly bytes come, and problems in place of HTML."""

from collections.abc import Callable
from functools import partial
from typing import Any

from eventlet import Timeout
from nameko.web.server import HttpOnlyProtocol

from services.kit.web.problems import Problem


class Protocol(HttpOnlyProtocol):
    """eventlet's HTTP protocol with a deadline for the whole head of a request; eventlet has one for each read only.

    An idle connection is kept for the server's `keepalive` seconds. From its first byte, the head of a request has to
    arrive within `socket_timeout` seconds. The body has a deadline of its own, in `entrypoint.Http`.
    """

    product = ""  # its name, see protocol_of
    _deadline: Timeout | None = None

    def handle_one_request(self) -> None:
        slow = TooSlow()
        try:
            self._slow = slow
            super().handle_one_request()
        except TooSlow as error:
            if error is not slow:
                raise
            self.send_problem(Problem(408, "request-timeout", "The request did not arrive in time."))
        finally:
            self._in_time()

    def _read_request_line(self) -> bytes:
        self.connection.settimeout(self.server.keepalive or self.server.socket_timeout)
        try:
            has_begun = bool(self.rfile.peek(1))
        except TimeoutError:
            raise
        except OSError:  # the client is gone
            has_begun = False
        if not has_begun:
            self.close_connection = True
            return b""
        self._deadline = Timeout(self.server.socket_timeout, self._slow)
        return bytes(super()._read_request_line())

    def parse_request(self) -> bool:
        """Read the headers, the last part of the head; then its deadline is over."""
        try:
            return bool(super().parse_request())
        finally:
            self._in_time()

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        body = environ["eventlet.input"]
        body.discard = partial(self._in_bounds, body.discard)
        return environ

    def _in_bounds(self, discard: Callable[[], None]) -> None:
        """Read the rest of a body that nobody has read, within a deadline. An OSError closes the connection."""
        with Timeout(self.server.socket_timeout, TimeoutError("the rest of the body did not arrive in time")):
            discard()

    def finish(self) -> None:
        """Close the connection, also if the client is gone, which eventlet leaves to the garbage collector."""
        try:
            super().finish()
        finally:
            self.rfile.close()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.send_problem(Problem(code, "malformed-request", "The request is not well-formed HTTP."))

    def send_problem(self, problem: Problem) -> None:
        """Answer in place of the application, and close the connection."""
        self.close_connection = True
        self.wfile.write(raw(problem, self.product))


def protocol_of(product: str) -> type[Protocol]:
    """Return the protocol with the problems of a product."""
    return type("Protocol", (Protocol,), {"product": product})


class TooSlow(Exception):
    """The head of a request did not arrive in time."""


def raw(problem: Problem, product: str) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    response = problem.response(product)
    response.headers["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    return f"HTTP/1.1 {response.status}\r\n{head}\r\n".encode("ascii") + response.get_data()
