"""The HTTP server of a service in this process, on a port of its own, which needs neither broker nor database."""

from types import SimpleNamespace
from typing import Any

import eventlet
from eventlet.green import socket

from services.kit.config import check
from services.kit.metrics import metrics_of
from services.kit.tracing import Tracer
from services.kit.web.auth.guard import Guard
from services.kit.web.limits.limits import Limits
from services.kit.web.server import Server
from services.local.net import free_port
from services.shop import SHOP
from tests.unit.kit.test_config import config

REQUEST_S = 0.6
SLACK_S = 1.0
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Running(Server):
    """A server with small limits, or with these `settings`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.port = free_port()
        few = {"REQUEST_TIMEOUT_S": REQUEST_S, "RPC_TIMEOUT_S": 0.1, "MAX_CONNECTIONS": 10, "MAX_STREAMS": 5}
        checked = check(config() | few | settings)
        self.container = SimpleNamespace(
            service_name="orders",
            metrics=metrics_of("unit"),
            tracer=Tracer(),
            product=SHOP,
            config={"WEB_SERVER_ADDRESS": f"127.0.0.1:{self.port}"},
            dependencies=[],
            subextensions=[],
            spawn_managed_thread=eventlet.spawn,
            spawn_worker=self._work,
            guard=Guard(checked),
            limits=Limits(checked),
            settings=checked,
        )

    def _work(self, entrypoint: Any, args: Any, kwargs: Any, handle_result: Any) -> None:
        """Answer as the worker that carries out the method of `entrypoint`, see `serve`."""
        handle_result(None, entrypoint.does(**args[1]), None)

    def serve(self, entrypoint: Any, does: Any) -> None:
        """Have a route answered by a function."""
        entrypoint.container, entrypoint.server, entrypoint.does = self.container, self, does
        self.register_provider(entrypoint)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    received = b""
    while data := connection.recv(65_536):
        received += data
    return received
