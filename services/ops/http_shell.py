"""`nameko-hw shell` in the style `http`: there is no broker that `nameko shell` could use, but there are services."""

import code
import sys
from collections.abc import Mapping
from typing import Any

import requests

from services.shop import SERVICES

TIMEOUT_S = 15


class Service:
    """A service of the running stack, asked by hand: `billing.get("/billing/accounts/...")`."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url

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
            answer = requests.request(method, self._url + path, json=body, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            return f"{self._name} does not answer: {type(error).__name__}"
        return answer.status_code, answer.json()

    def __repr__(self) -> str:
        return f"<{self._name} at {self._url}>"


def interact(environment: Mapping[str, str]) -> None:
    """Open a Python shell with the services by their names."""
    services = {name: Service(name, environment[f"{name.upper()}_URL"]) for name in SERVICES}
    banner = (
        f"Python {sys.version.split()[0]}, style http: there is no broker, so no `n.rpc`.\n"
        f"{', '.join(services)} are the services: billing.get('/billing/accounts/<user id>'), "
        "billing.put('/internal/billing/accounts/<user id>')"
    )
    code.interact(banner, local=dict(services), exitmsg="")
