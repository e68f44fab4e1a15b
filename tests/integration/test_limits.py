"""One client may send so many requests, and have so many connections, whatever it says of itself; others go on."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jwt
from eventlet.green import socket
from pydantic import BaseModel

from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.entrypoint import Http, Reply, Route
from tests.running import GET, Running, everything

POST = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
KEY = "k" * 32
BODY = b'{"name":"x"}'


class User(BaseModel):
    name: str


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[Running, list[str]]]:
    """A server with routes for everybody, for tokens and for services, and the names that were sent to it."""
    server, came = Running(MAX_CALLS=1, **settings), list[str]()

    def store(body: User, key: str | None = None) -> Reply:
        came.append(body.name)
        return Reply(200, body)

    server.serve(Http(Route("POST", "/users", Rule.OPEN, {}, body=User)), store)
    server.serve(Http(Route("GET", "/users", Needs("users:read"), {})), lambda: Reply(200, User(name="x")))
    server.serve(Http(Route("PUT", "/internal/users", Rule.SERVICES, {}, body=User)), store)
    server.start()
    try:
        yield server, came
    finally:
        server.drain()


def ask(port: int, head: bytes, body: bytes = BODY) -> tuple[int, dict[str, str], Any]:
    """Send a request; return the status, the headers and the body of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n" + body)
        answer, _, content = everything(connection).partition(b"\r\n\r\n")
    headers = dict(re.findall(r"(.*): (.*)", answer.decode().replace("\r", "")))
    return int(answer.split()[1]), headers, json.loads(content)


def test_a_request_too_many_is_refused_says_when_to_come_back_and_has_no_effect():
    with serving(RATE_LIMIT=3) as (server, came):
        for left in (2, 1, 0):
            status, headers, _ = ask(server.port, POST)
            assert (status, headers["RateLimit"]) == (200, f'"default";r={left};t={20 * (3 - left)}')
        status, headers, problem = ask(server.port, POST + b"X-Forwarded-For: 192.0.2.1\r\n")
        assert (status, problem["type"]) == (429, "urn:nameko-hw:problem:too-many-requests")
        assert headers["RateLimit-Policy"] == '"default";q=3;w=60' and 1 <= int(headers["Retry-After"]) <= 20
        assert came == ["x"] * 3
        assert ask(server.port, POST.replace(b"12", b"1"), b"{")[0] == 429, "the body is not looked at"


def test_a_token_has_a_quota_of_its_own_and_guesses_share_that_of_their_address():
    def get(subject: str, key: str = KEY) -> int:
        claims = {"sub": subject, "scope": "users:read", "iss": "x", "aud": "y", "exp": int(time.time()) + 60}
        token = jwt.encode(claims, key, "HS256")
        return ask(
            server.port, b"GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % token.encode(), b""
        )[0]

    tokens = {"AUTH": "jwt", "AUTH_KEY": KEY, "AUTH_ISSUER": "x", "AUTH_AUDIENCE": "y"}
    with serving(RATE_LIMIT=2, **tokens) as (server, _):
        assert [get("ada", "guessed" * 8) for _ in range(3)] == [401, 401, 429]
        assert [get("ada") for _ in range(3)] == [200, 200, 429]
        assert get("bob") == 200


def test_services_and_health_are_not_limited():
    with serving(RATE_LIMIT=1) as (server, came):
        put = POST.replace(b"POST /users", b"PUT /internal/users")
        for head, body in ((put, BODY), (GET[:-2], b"")) * 3:
            status, headers, _ = ask(server.port, head, body)
            assert status == 200 and "RateLimit" not in headers
    assert len(came) == 3


def test_nothing_is_said_of_limits_where_there_are_none():
    with serving() as (server, _):
        status, headers, _ = ask(server.port, POST)
    assert status == 200 and not [name for name in headers if name.startswith("RateLimit")]


def test_an_address_has_so_many_connections_and_gets_another_when_it_closes_one():
    with serving(MAX_CONNECTIONS_PER_ADDRESS=3) as (server, _), ExitStack() as stack:
        open_ = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in open_:
            connection.sendall(GET)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        with server.connect() as another:
            head, _, body = everything(another).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 ") and b"Retry-After: 1\r\n" in head
        assert json.loads(body)["type"] == "urn:nameko-hw:problem:too-many-requests"
        open_[0].shutdown(socket.SHUT_WR)
        assert everything(open_[0]) == b""
        assert ask(server.port, POST)[0] == 200


def test_connections_of_a_proxy_are_those_of_its_clients():
    with serving(MAX_CONNECTIONS_PER_ADDRESS=3, TRUSTED_PROXIES=["127.0.0.1"]) as (server, _), ExitStack() as stack:
        for _ in range(9):
            connection = stack.enter_context(server.connect())
            connection.sendall(GET)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
