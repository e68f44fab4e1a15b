"""What the gateway answers when a service does not: never that a client should repeat what may have been done."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from werkzeug.datastructures import EnvironHeaders
from werkzeug.test import Client, TestResponse

from services.kit.web.entrypoint import Http
from services.local.gateway import Backend, Gateway
from services.local.net import HOST, free_port
from services.local.stack import ROOT
from services.ops.openapi import classes, entrypoints
from services.shop import INTERNAL, INTERNAL_ROUTES, ROUTES, STYLES, Style
from tests.client import tells_how_to_send_it_again


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
def test_every_route_is_that_of_the_service_that_serves_it(style: Style):
    paths = {http.route.path: service.name for service in classes(style) for _, http in entrypoints(service, Http)}
    public = {path.split("/")[1]: name for path, name in paths.items() if not path.startswith(INTERNAL)}
    internal = {"/".join(path.split("/")[1:3]): name for path, name in paths.items() if path.startswith(INTERNAL)}
    assert public and public.items() <= ROUTES.items()
    assert internal.items() <= INTERNAL_ROUTES.items() and bool(internal) == (style.name == "http")


def test_what_services_call_each_other_by_is_not_reachable_from_outside():
    def served(environ, start_response):
        start_response("200 OK", [])
        return [b""]

    apps = dict.fromkeys(ROUTES.values(), served)
    path = "/internal/billing/payments/8f0c1c2e-4a57-4b1e-9a5c-6d2f0e7b3a10"
    answer = Client(Gateway(apps, own={})).put(path, json={})
    assert answer.status_code == 404 and answer.json["type"].endswith(":no-such-path")
    assert Client(Gateway(apps, own={}, routes=INTERNAL_ROUTES)).put(path).status_code == 200
    assert Client(Gateway(apps, own={}, routes=INTERNAL_ROUTES)).get("/users/x").status_code == 404


def test_what_the_gateway_answers_itself_is_only_read():
    gateway = Client(Gateway({}, own={"/metrics": lambda environ, start: (start("200 OK", []), [b"1"])[1]}))
    assert gateway.get("/metrics").data == b"1"
    refused = gateway.post("/metrics")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert gateway.post("/health").status_code == 404


CLIENT = "192.0.2.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listening:
        yield listening


def send(backend: Backend, method: str, headers: dict[str, str]) -> TestResponse:
    def gateway(environ, start_response):
        of_eventlet = {"RAW_PATH_INFO": environ["PATH_INFO"], "headers_raw": tuple(EnvironHeaders(environ))}
        return backend({**environ, **of_eventlet, "HTTP_X_REQUEST_ID": "seven", "REMOTE_ADDR": CLIENT}, start_response)

    return Client(gateway).open("/billing/accounts/x/deposit", method=method, json={"amount": 5}, headers=headers)


def ask(*ports: int) -> tuple[str, str]:
    """Return the detail and Retry-After of the 503 for a deposit that none of these ports answers."""
    answer = send(Backend("billing", list(ports), timeout_s=0.5, body_limit=100), "POST", {"Idempotency-Key": "k"})
    assert answer.status_code == 503
    return answer.json["detail"], answer.headers["Retry-After"]


def break_off(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    connection.recv(4096)
    connection.close()


def test_a_request_that_nobody_has_seen_may_be_sent_again(listener):
    detail, retry_after_s = ask(free_port(), free_port())
    assert "Nothing was done" in detail and "same Idempotency-Key" in detail and int(retry_after_s) >= 1


@pytest.mark.parametrize("others", [lambda: [], lambda: [free_port()]])
def test_a_request_that_somebody_may_have_seen_is_to_be_looked_for_first(listener, others: Callable[[], list[int]]):
    threading.Thread(target=break_off, args=(listener,), daemon=True).start()
    detail, retry_after_s = ask(listener.getsockname()[1], *others())
    assert tells_how_to_send_it_again(detail) and int(retry_after_s) >= 1


@pytest.mark.parametrize(
    "method, headers, is_sent_again",
    [
        ("POST", {}, False),
        ("POST", {"Idempotency-Key": "k"}, True),
        ("GET", {}, True),
    ],
)
def test_a_request_is_sent_again_only_if_it_has_one_effect(listener, method: str, headers: dict, is_sent_again: bool):
    seen: list[bytes] = []

    def answer(listening: socket.socket) -> None:
        while len(seen) < 2:
            with suppress(OSError), listening.accept()[0] as connection:
                seen.append(connection.recv(4096))
                if len(seen) > 1:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            if listening.fileno() < 0:
                return  # the test is over

    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    assert send(Backend("billing", [port, port], timeout_s=5, body_limit=100), method, headers).status_code == (
        200 if is_sent_again else 503
    )
    assert len(seen) == (2 if is_sent_again else 1)


def test_a_service_is_told_who_has_asked_and_not_what_they_say_who_they_are(listener):
    seen: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            seen.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    backend = Backend("billing", [listener.getsockname()[1]], timeout_s=5, body_limit=100)
    assert send(backend, "GET", {"X-Forwarded-For": "192.0.2.2"}).status_code == 200
    assert re.findall(rb"(?i)x-forwarded-for: (.*)\r", seen[0]) == [CLIENT.encode()]


def test_a_service_that_is_silent_is_to_be_looked_at_first(listener):
    detail, retry_after_s = ask(listener.getsockname()[1])
    assert tells_how_to_send_it_again(detail) and int(retry_after_s) >= 1


def test_every_503_of_the_proxy_says_so_too_and_when():
    text = (ROOT / "docker" / "nginx.conf").read_text()
    places = re.findall(r"(add_header Retry-After \d+ always;\s*)?return 503 '(.*)'", text)
    assert places
    for retry_after, body in places:
        assert retry_after and tells_how_to_send_it_again(json.loads(body)["detail"])
