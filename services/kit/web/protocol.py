"""HTTP on one connection: deadlines that hold however slowly bytes come, and problems in place of HTML."""

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from eventlet import Timeout
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from nameko.web.server import HttpOnlyProtocol

from services.kit.web.problems import Problem

MAX_HEAD = 65_536  # bytes of a request before its body
MAX_LINE = 4_096  # bytes of a line between the chunks of a body
KEEP_ALIVE_S = 60  # how long a connection is kept on which no request comes
LINGER_S = 0.3
END = b"\r\n\r\n"


class Head:
    """The head of a request as the parser reads it, and its headers as eventlet asks for them."""

    def __init__(self) -> None:
        self.url = b""
        self._headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a header."""
        name = name.lower()
        return next((value for one, value in self._headers if one.lower() == name), default)

    def get_content_type(self) -> str:
        """Return what a body is of which nobody says it."""
        return "text/plain"


class Body:
    """Where eventlet reads a body from. The lines between chunks, which it keeps in memory, have to end."""

    def __init__(self, rfile: Any) -> None:
        self.read = rfile.read
        self._readline = rfile.readline

    def readline(self, size: int = -1) -> bytes:
        """Return a line of MAX_LINE bytes at most; raise an OSError if it is longer."""
        line: bytes = self._readline(MAX_LINE)
        if len(line) == MAX_LINE:
            raise OSError("a line between the chunks of a body is too long")
        return line


class Answer:
    """What is written on a connection, a piece at a time. The client has to take each within `timeout_s` in all."""

    closed = False

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self._pieces += pieces

    def flush(self) -> None:
        """Send what was written. Raises an OSError if the client is gone, or does not take it in time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        if not data:
            return
        until = time.monotonic() + self._timeout_s
        sent = self._connection.send(data)  # all of it, as a rule
        if sent < len(data):
            with Timeout(max(0.0, until - time.monotonic()), TimeoutError("the client does not read")):
                self._connection.sendall(memoryview(data)[sent:])

    def close(self) -> None:
        self.closed = True


class Protocol(HttpOnlyProtocol):
    """eventlet's HTTP protocol with deadlines for all of what comes and goes; eventlet's are for each read and write.

    A connection has `socket_timeout` seconds for its first byte, and is kept for `keepalive` seconds between requests.
    From its first byte, the head of a request has to arrive within `socket_timeout` seconds. The body has a deadline of
    its own, in `entrypoint.Http`; what nobody reads of it has to arrive as soon. So has the client to read an answer.

    The head is parsed by llhttp, strictly and in C. eventlet uses the parser of Python's library, which was made for
    e-mail.
    """

    product = ""  # its name, see protocol_of
    requestline = ""  # for eventlet's log
    wbufsize = 0  # Answer writes in one piece what eventlet gives it in several
    _deadline: Timeout | None = None
    _idle_s: float | None = None  # how long the next request may take to begin, None for the first
    _body: Any = None  # of the last request
    _body_until = 0.0  # by the monotonic clock

    def __init__(self, connection: Any, server: Any) -> None:
        server.url_length_limit = MAX_HEAD + 1  # of the request line, which is the whole head here
        super().__init__(connection, server)

    def setup(self) -> None:
        super().setup()
        self.wfile.close()
        self.wfile: Answer = Answer(self.connection, self.server.socket_timeout)

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
        self.connection.settimeout(self._idle_s or self.server.socket_timeout)
        self._idle_s = self.server.keepalive
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
        self.connection.settimeout(self.server.socket_timeout)  # for what follows the head
        return self._read_head()

    def _read_head(self) -> bytes:
        """Return the head of a request with the empty line at its end; nothing if it is too long, or never ends."""
        end = self.rfile.peek().find(END)
        if end >= 0:
            return bytes(self.rfile.read(end + len(END)))
        head = b""
        while not head.endswith(END):
            line = self.rfile.readline(MAX_HEAD)
            if not line:
                return b""
            head += line
            if len(head) > MAX_HEAD:
                self.send_problem(Problem(431, "head-too-long", f"The head of a request has {MAX_HEAD} bytes at most."))
                return b""
        return head

    def parse_request(self) -> bool:
        """Parse the head, which has come in time. Return whether it is well-formed; if not, it is answered."""
        self._in_time()
        self.headers = Head()
        parser = HttpRequestParser(self.headers)
        try:
            parser.feed_data(self.raw_requestline)
        except HttpParserUpgrade:
            pass  # to another protocol, which we may ignore (RFC 9110, section 7.8)
        except HttpParserError:
            self.send_error(400)
            return False
        self.command = parser.get_method().decode("ascii")
        self.path = self.headers.url.decode("latin-1")
        version = parser.get_http_version()
        self.request_version = f"HTTP/{version}"
        if version not in ("1.0", "1.1"):
            self.send_error(400)
            return False
        self.close_connection = not parser.should_keep_alive()
        return True

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        body = environ["eventlet.input"]
        body.rfile = Body(body.rfile)
        body.discard = partial(self._in_bounds, body.discard)
        self._body = body
        self._body_until = time.monotonic() + self.server.socket_timeout
        return environ

    def _in_bounds(self, discard: Callable[[], None]) -> None:
        """Read the rest of a body that nobody has read, if it comes in time; if not, close the connection."""
        try:
            with Timeout(self._body_s, TimeoutError()):
                discard()
        except (OSError, ValueError):
            self.close_connection = True

    @property
    def _body_s(self) -> float:
        """How long the rest of a body may still take."""
        return max(LINGER_S, self._body_until - time.monotonic())

    @property
    def _is_sending(self) -> bool:
        """Whether the client may be in the middle of a body that was refused."""
        body = self._body
        if body is None:
            return False
        return body.chunk_length != 0 if body.chunked_input else body.position < (body.content_length or 0)

    def finish(self) -> None:
        """Close the connection, also if the client is gone, which eventlet leaves to the garbage collector."""
        try:
            if self._is_sending:
                with suppress(OSError):
                    linger(self.connection, self._body_s)
            super().finish()
        finally:
            self.rfile.close()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.send_problem(Problem(code, "malformed-request", "The request is not well-formed HTTP."))

    def send_problem(self, problem: Problem) -> None:
        """Answer in place of the application, and close the connection."""
        self._in_time()
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(raw(problem, self.product))
            self.wfile.flush()
            linger(self.connection)


def protocol_of(product: str) -> type[Protocol]:
    """Return the protocol with the problems of a product."""
    return type("Protocol", (Protocol,), {"product": product})


def linger(connection: Any, most_s: float = LINGER_S) -> None:
    """End an answer, and read on until the client closes: to do so first could reset it before the client has it.

    (RFC 9112, section 9.6.) Raises OSError if the client is gone, or does not close in `most_s` seconds.
    """
    with Timeout(most_s, TimeoutError()):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


class TooSlow(Exception):
    """The head of a request did not arrive in time."""


def raw(problem: Problem, product: str) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    response = problem.response(product)
    response.headers["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    return f"HTTP/1.1 {response.status}\r\n{head}\r\n".encode("ascii") + response.get_data()
