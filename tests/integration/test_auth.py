"""Who may what with AUTH=jwt, in embedded mode; and what needs no token, or is none."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from services.kit.web.auth.caller import ADMIN
from services.shop import chosen_style
from tests.acceptance.test_embedded import command_of
from tests.client import Api
from tests.conftest import WAIT_S, Embedded
from tests.matrix import BETWEEN_SERVICES, Matrix, Shop, settings, shop_at
from tests.tokens import Provider

PROVIDER = Provider()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps(PROVIDER.jwks()))
    return file


@pytest.fixture(scope="module")
def running(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("auth"), settings(keys)) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def shop(running: Embedded) -> Iterator[Shop]:
    with shop_at(running.url, PROVIDER) as shop:
        yield shop


class TestWhoMayWhat(Matrix):
    pass


def test_what_needs_no_token_is_open(shop: Shop):
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/docs/problems", "/openapi.json"):
        assert requests.get(shop.url + path, timeout=10).status_code == 200, path
    assert requests.get(f"{shop.url}/nowhere", timeout=10).status_code == 404


@pytest.mark.skipif(chosen_style().name != "broker", reason="the other tests have tried it, or need not")
def test_services_that_speak_http_know_each_other(keys: Path, tmp_path: Path):
    token = PROVIDER.token("the-office", ADMIN)
    with Embedded(tmp_path, settings(keys) | {"STYLE": "http"}) as running, Api(running.url, WAIT_S, token) as admin:
        user = admin.new_user(10)
        assert admin.ended_order(user["id"], 7)["status"] == "paid"
        assert [one["kind"] for one in admin.letters(user["id"], 1)] == ["order_paid"]


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Authorization": "Bearer " + "x" * 10_000}, 401),
        ({"Authorization": "Bearer " + "x" * 100_000}, 431),
        ({"Authorization": "Bearer \x00"}, 400),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Authorization": ""}, 401),
    ],
)
def test_a_header_that_is_no_token_has_its_answer(shop: Shop, headers: dict[str, str], status: int):
    raw = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", int(shop.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(f"GET /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{raw}\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == str(status).encode()


def test_no_token_and_no_secret_is_in_a_log_or_a_command_line(running: Embedded, shop: Shop):
    for token in (PROVIDER.token(shop.ada, ADMIN), PROVIDER.token(shop.ada, ADMIN) + "x"):
        with shop.client(token) as client:
            client.get("/orders")
    logs = [log.read_text(errors="replace") for log in running.folder.rglob("*.log")]
    lines = [" ".join(command_of(child)) for child in psutil.Process().children(recursive=True)]
    assert logs and lines
    assert [text for text in (*logs, *lines) if re.search(rf"{BETWEEN_SERVICES}|eyJ[\w-]+\.eyJ", text)] == []
