"""`nameko-hw shell` in the style `http`: there is no broker that `nameko shell` could use, but there are services."""

import code
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import requests

from services.local import tokens
from services.shop import INTERNAL, SERVICES

TIMEOUT_S = 15


class Service:
    """A service of the running stack, asked by hand: `billing.get("/billing/accounts/...")`."""

    def __init__(self, name: str, url: str, token_for: Callable[[str], str | None] = lambda path: None) -> None:
        """`token_for` returns the token for a path, if one is asked for."""
        self._name = name
        self._url = url
        self._token_for = token_for

    def get(self, path: str) -> Any:
        """Return the answer to a GET: its status and its JSON."""
        return self._ask("GET", path)

    def put(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a PUT, also of an internal path."""
        return self._ask("PUT", path, body)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer to a POST."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            headers = {"Authorization": f"Bearer {token}"} if (token := self._token_for(path)) else {}
            answer = requests.request(method, self._url + path, json=body, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            return f"{self._name} does not answer: {type(error).__name__}"
        return answer.status_code, answer.json()

    def __repr__(self) -> str:
        return f"<{self._name} at {self._url}>"


def interact(environment: Mapping[str, str]) -> None:
    """Open a Python shell with the services by their names."""
    admins, secret = tokens.admins_token({**os.environ, **environment}), environment.get("INTERNAL_TOKEN")

    def token_for(path: str) -> str | None:
        return secret if path.startswith(INTERNAL) else admins

    services = {name: Service(name, environment[f"{name.upper()}_URL"], token_for) for name in SERVICES}
    banner = (
        f"Python {sys.version.split()[0]}, style http: there is no broker, so no `n.rpc`.\n"
        f"{', '.join(services)} are the services: billing.get('/billing/accounts/<user id>'), "
        "billing.put('/internal/billing/accounts/<user id>')"
    )
    code.interact(banner, local=dict(services), exitmsg="")
