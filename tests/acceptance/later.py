"""The system as a client meets it when everything ends later: users and orders are pending at first."""

import json
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

import requests
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from services.local.net import HOST
from tests.client import TIMEOUT_S, Json
from tests.serving import Serving

UNENDED = {"status": "pending", "reason": None}
#: What an answer has anew, and what is of each connection.
OWN = ("Content-Length", "Content-Type", "Date", "Connection")


class Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


class Later(Serving):
    """A proxy before a system. What a client creates is pending the first `times` that it sees it.

    An order of an unknown user is no exception: it is answered 202, and rejected later. Clients that
    prefer to wait see the end.
    """

    def __init__(self, url: str, times: int = 3) -> None:
        self.system = url
        self.times = times
        self.seen: dict[str, int] = {}
        self.strangers: dict[str, Json] = {}
        server = make_server(HOST, 0, self.app, threaded=True, request_handler=Quiet)
        super().__init__(server)
        self.url = f"http://{HOST}:{server.server_port}"

    def app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        answer = requests.request(
            request.method,
            self.system + request.full_path.rstrip("?"),
            data=request.get_data(),
            headers={name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")},
            timeout=TIMEOUT_S,
            stream=True,
        )
        headers = {name: value for name, value in answer.headers.items() if name not in OWN}
        if "Content-Encoding" in headers:  # too long to be about anything that is pending
            packed, kind = answer.raw.read(decode_content=False), answer.headers["Content-Type"]
            return Response(packed, answer.status_code, headers, content_type=kind)(environ, start_response)
        if not answer.content:
            kind = answer.headers.get("Content-Type")
            return Response(status=answer.status_code, headers=headers, content_type=kind)(environ, start_response)
        status, body = answer.status_code, answer.json()
        if "Preference-Applied" not in answer.headers:
            status, body = self.as_seen_now(request, status, body)
        headers["Content-Type"] = "application/json" if status < 400 else "application/problem+json"
        if status in (201, 202) and request.path == "/orders":
            headers |= {"Location": f"/orders/{body['id']}"} | ({"Retry-After": "1"} if status == 202 else {})
        return Response(json.dumps(body), status, headers)(environ, start_response)

    def as_seen_now(self, request: Request, status: int, body: Json) -> tuple[int, Json]:
        """The answer as it would be if the end came later."""
        if request.path == "/orders" and request.method == "POST" and status == 404:
            body, status = self.strangers_order(request), 201
        elif request.path == "/orders" and "items" in body:
            stranger = self.strangers.get(request.args.get("user_id", ""))
            return status, body | {"items": [self.unended(one) for one in ([stranger] if stranger else body["items"])]}
        if status not in (200, 201) or request.path.split("/")[1] not in ("users", "orders") or "id" not in body:
            return status, body
        body = self.unended(body)
        return 202 if status == 201 and body["status"] == "pending" and "price" in body else status, body

    def strangers_order(self, request: Request) -> Json:
        asked = request.get_json()
        ended = {"status": "rejected", "reason": "account_not_found", "created_at": "2026-01-01T00:00:00Z"}
        return self.strangers.setdefault(asked["user_id"], {"id": str(uuid4()), **asked, **ended})

    def unended(self, body: Json) -> Json:
        """A user or an order, pending as long as it has not been seen `times` times."""
        self.seen[body["id"]] = self.seen.get(body["id"], 0) + 1
        return (
            body if self.seen[body["id"]] > self.times else body | {key: UNENDED[key] for key in UNENDED if key in body}
        )
