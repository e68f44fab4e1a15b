"""Tokens of a provider that is not ours, which signs by keys of its own and publishes them."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from services.kit.web.auth.caller import ADMIN
from services.local.net import free_port, wait_for
from services.local.supervisor import dies_with_parent
from tests.client import Api
from tests.conftest import QUICK, WAIT_S, Embedded
from tests.matrix import BETWEEN_SERVICES
from tests.tokens import AUDIENCE

PROGRAM = Path(__file__).parents[1] / "clients" / "provider.js"
START_S = 20


class Provider:
    """The package oauth2-mock-server, in a process of its own."""

    def __init__(self, log: Path) -> None:
        self.url = f"http://localhost:{free_port()}"
        self.log = log
        node = shutil.which("node")
        assert node, "`make test` installs Node.js"
        command = [*dies_with_parent("TERM"), node, str(PROGRAM), self.url.rpartition(":")[2]]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "NODE_ENV": "test"})
        wait_for(lambda: self.url in log.read_text(), START_S, f"the provider, see {log}")

    def known(self, name: str) -> str:
        """Return what it says of itself (OpenID Connect Discovery 1.0)."""
        said: str = requests.get(f"{self.url}/.well-known/openid-configuration", timeout=START_S).json()[name]
        return said

    def token(self, sub: object, scope: str, audience: str = AUDIENCE) -> str:
        asked = {"grant_type": "password", "username": str(sub), "audience": audience, "scope": scope}
        answer = requests.post(self.known("token_endpoint"), asked, timeout=START_S)
        token: str = answer.json()["access_token"]
        return token

    def add_key(self) -> None:
        self.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "a new key" in self.log.read_text(), START_S, "a new key")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(START_S)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    provider = Provider(tmp_path_factory.mktemp("provider") / "provider.log")
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def url(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    of_auth = {"AUTH": "jwt", "AUTH_JWKS": provider.known("jwks_uri"), "AUTH_ISSUER": provider.known("issuer")}
    of_auth |= {"AUTH_AUDIENCE": AUDIENCE, "INTERNAL_TOKEN": BETWEEN_SERVICES}
    with Embedded(tmp_path_factory.mktemp("shop"), {**QUICK, **of_auth}) as running:
        yield running.url


def test_users_of_a_provider_see_and_order_for_themselves(provider: Provider, url: str):
    with Api(url, WAIT_S, provider.token("the-office", ADMIN)) as admin:
        ada, bob = admin.new_user(10)["id"], admin.new_user(10)["id"]
    with Api(url, WAIT_S, provider.token(ada, "orders:write orders:read notifications:read")) as her:
        order = her.ended_order(ada, 7)
        assert order["status"] == "paid"
        assert [one["kind"] for one in her.letters(ada, 1)] == ["order_paid"]
        assert her.post("/orders", {"user_id": bob, "price": 1}).status_code == 404
    with Api(url, WAIT_S, provider.token(bob, "orders:read")) as him:
        assert him.get(f"/orders/{order['id']}").status_code == 404
        assert him.post("/orders", {"user_id": bob, "price": 1}).status_code == 403


def test_a_token_for_another_service_is_refused(provider: Provider, url: str):
    with Api(url, WAIT_S, provider.token(uuid4(), ADMIN, audience="another-shop")) as stranger:
        assert stranger.get("/orders").status_code == 401


def test_a_key_that_is_added_needs_no_restart(provider: Provider, url: str):
    provider.add_key()
    for _ in range(2):  # the keys take turns
        with Api(url, WAIT_S, provider.token("the-office", ADMIN)) as admin:
            wait_for(lambda: admin.get("/orders").status_code == 200, START_S, "the token of each key to be taken")
