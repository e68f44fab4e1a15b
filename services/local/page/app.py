"""The page as a WSGI application: its files, its reads, and what it changes.

It is served on a loopback port only. Requests from other sites are refused by their Host and Origin, and what changes
something needs the token that is in the URL which `make run` and `make stack` print. See docs/page.md.
"""

import hmac
import json
import mimetypes
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from eventlet import Timeout
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.wrappers import Request, Response

from services.kit.web.problems import Problem, bad_field, nothing_here, routing_problem
from services.local import tokens
from services.local.page import receiver
from services.local.page.audits import Audits
from services.local.page.burst import Burst
from services.local.page.code import OF, snippets
from services.local.page.control import ControlClient
from services.local.page.lesson import Without
from services.local.page.receiver import Receiver
from services.local.page.spans import Ring
from services.local.page.state import State
from services.local.page.stream import Stream
from services.shop import SHOP, Style

STATIC = Path(__file__).parent / "static"
HOSTS = ("127.0.0.1", "localhost", "::1")
BODY_S = 10.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}  # whatever the machine has in its own table

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Where:
    """Where the page runs: its mode and style, the databases, and the token."""

    mode: str  # embedded or stack
    style: Style
    port: int
    token: str
    urls: dict[str, str]
    folder: Path
    control: ControlClient | None = None  # only the stack has processes to break
    collector: str | None = None  # where the traces go instead, if the environment says so


class Page:
    """Answers `/`, what begins with `/page/`, and `/v1/traces`."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.ring = Ring()
        self.receiver = Receiver(self.ring)
        self.stream = Stream(self.ring)
        self.state = State(where.urls)
        self.audits = Audits(where.urls)
        self.burst = Burst(where.port)
        self.without = Without(where.folder / "without", where.style)
        #: The method, the path, who answers, and whether that changes something.
        self.routes: list[tuple[str, re.Pattern[str], Answer, bool]] = [
            ("GET", re.compile("/"), lambda request: file("index.html"), False),
            ("GET", re.compile(r"/page/([\w-]+\.(?:js|css|svg))"), lambda request, name: file(name), False),
            ("GET", re.compile("/page/spans"), self.stream.answer, False),
            ("GET", re.compile("/page/status"), self._status, False),
            ("GET", re.compile("/page/orders"), self._newest, False),
            ("GET", re.compile(r"/page/orders/([\w-]+)"), self._order, False),
            ("GET", re.compile(r"/page/code/([\w-]+)"), self._code, False),
            ("POST", re.compile(receiver.PATH), self._receive, False),
            ("POST", re.compile("/page/audit"), lambda request: self.audits.start(), True),
            ("POST", re.compile("/page/burst"), lambda request: self.burst.start(), True),
            ("POST", re.compile(r"/page/without/(\w+)"), lambda request, what: self.without.start(what), True),
            ("POST", re.compile(r"/page/orders/([\w-]+)/publish-again"), self._publish_again, True),
            ("POST", re.compile(r"/page/parts/([\w-]+)/(\w+)"), self._break, True),
        ]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self._answer(request)
        except Problem as problem:
            response = problem.response(SHOP.name)
        response.headers.update(HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        _check_sender(request)
        found = [(route, match) for route in self.routes if (match := route[1].fullmatch(request.path))]
        method = "GET" if request.method == "HEAD" else request.method
        for (its_method, _, answer, changes), match in found:
            if its_method == method:
                if changes and not self._may_change(request):
                    raise Problem(
                        403, "wrong-token", "Open the page by the URL that was printed at the start: it has the token."
                    )
                answered = answer(request, *match.groups())
                return answered if isinstance(answered, Response) else _json(answered)
        if found:
            allowed = {route[0] for route, _ in found}
            return routing_problem(MethodNotAllowed(allowed)).response(SHOP.name)
        raise nothing_here()

    def _may_change(self, request: Request) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self.where.token.encode())

    def _receive(self, request: Request) -> Response:
        return self.receiver.answer(request, _body(request, receiver.SENT_BYTES))

    def _status(self, request: Request) -> dict[str, Any]:
        where = self.where
        return {
            "mode": where.mode,
            "style": where.style.name,
            "has_broker": where.style.has_broker,
            "may_change": self._may_change(request),
            "token": tokens.admins_token() if self._may_change(request) else None,  # for the shop, with AUTH=jwt
            "collector": where.collector,
            "spans": {"received": self.ring.received, "dropped": dict(self.ring.dropped)},
            "parts": where.control and where.control.parts(),
            "audit": self.audits.view(),
            "burst": self.burst.view(),
            "without": self.without.view(),
        }

    def _newest(self, request: Request) -> Any:
        return self.state.newest(_uuid_or_none(request, "user_id"))

    def _order(self, request: Request, order_id: str) -> Any:
        return self.state.of(_uuid("order", order_id), _uuid_or_none(request, "user_id"))

    def _publish_again(self, request: Request, order_id: str) -> Any:
        return {"events": self.state.publish_again(_uuid("order", order_id))}

    def _code(self, request: Request, lesson: str) -> Any:
        if lesson not in OF:
            raise nothing_here()
        return snippets(lesson)

    def _break(self, request: Request, part: str, action: str) -> Any:
        if self.where.control is None:
            raise Problem(404, "nothing-to-break", "There are no processes to break here: `make stack` has some.")
        down_s = request.args.get("down_s", "0.2")
        if not re.fullmatch(r"[0-9]{1,2}(\.[0-9])?", down_s):
            raise bad_field("down_s", "number", "should be a number of seconds, up to 60")
        self.where.control.do(action, part, float(down_s))
        return {}


def _check_sender(request: Request) -> None:
    """Refuse what another machine or another site sends: its address, its Host or its Origin is not ours."""
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    is_here = (request.remote_addr or "").startswith("127.") or request.remote_addr == "::1"
    if not is_here or _hostname(host) not in HOSTS:
        raise Problem(403, "wrong-host", "This page is for a browser on this machine.")
    if origin is not None and origin != f"http://{host}":
        raise Problem(403, "wrong-origin", "Origin: another site may not use this page.")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _body(request: Request, limit: int) -> bytes:
    """Return the body of a request. Raises Problem."""
    if (request.content_length or 0) > limit:
        raise Problem(413, "body-too-long", f"body: should not be longer than {limit} bytes.")
    try:
        with Timeout(BODY_S, Problem(408, "request-timeout", "The request did not arrive in time.")):
            body: bytes = request.environ["wsgi.input"].read(limit + 1)
    except (OSError, ValueError):
        raise Problem(400, "malformed-body", "body: could not be read to its end.") from None
    if len(body) > limit:
        raise Problem(413, "body-too-long", f"body: should not be longer than {limit} bytes.")
    return body


def _uuid(field: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise bad_field(field, "uuid", "should be a UUID") from None


def _uuid_or_none(request: Request, field: str) -> UUID | None:
    return _uuid(field, request.args[field]) if request.args.get(field) else None


def _json(body: Any) -> Response:
    return Response(json.dumps({} if body is None else body, default=str), content_type="application/json")


def file(name: str) -> Response:
    """Return one of the files of the page. Raises Problem if there is none of that name."""
    path = STATIC / name
    if not path.is_file():
        raise nothing_here()
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), content_type=f"{kind}; charset=utf-8")
