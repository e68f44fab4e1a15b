"""Embedded mode: the four services, the gateway and, if the style has one, the broker in one process.

PostgreSQL runs beside it.

Run by `nameko-hw run`, which calls `eventlet.monkey_patch()` before it imports this.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventlet
from eventlet import wsgi
from eventlet.event import Event
from nameko.runners import ServiceRunner
from werkzeug.wrappers import Request, Response

from services.kit.outbox.handover import publish_again
from services.kit.outbox.table import OutboxRow
from services.kit.web import health
from services.kit.web import server as web
from services.kit.web.protocol import KEEP_ALIVE_S, protocol_of
from services.local import broker
from services.local.gateway import Gateway, WsgiApp, ready
from services.local.net import HOST
from services.local.page import settings as page
from services.local.page.app import Page, Where
from services.local.postgres import Postgres
from services.ops.migrate import upgrade
from services.shop import INTERNAL_ROUTES, SERVICES, SHOP, Style, service_class, services_with

log = logging.getLogger(__name__)


def serve(
    listener: socket.socket,
    folder: Path,
    config: dict[str, Any],
    style: Style,
    token: str,
    on_ready: Callable[[], None],
) -> None:
    """Serve in `style` on `listener` until SIGINT or SIGTERM; the data stays in `folder` between runs.

    The page is served too; `token` is that of its URL. The services send it their traces.
    """
    port = listener.getsockname()[1]
    collector = page.collector()
    os.environ.update(page.traced_to(port))
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.ready() or stop.send())
    with Postgres(folder / "postgres") as postgres:
        postgres.ensure_databases(SERVICES)
        for service in SERVICES:
            upgrade(service, postgres.url(service), style)
        if style.has_broker:  # it lives in memory, and has lost what it had not delivered when the last run ended
            for service in services_with(OutboxRow):
                publish_again(postgres.url(service))
        internal = eventlet.listen((HOST, 0))
        url = f"http://{HOST}:{internal.getsockname()[1]}"
        runner = ServiceRunner(
            {
                **config,
                "AMQP_URI": broker.URI,
                "WEB_SERVER_ADDRESS": None,
                "SERVICE_URLS": dict.fromkeys(SERVICES, url),
                "DB_URIS": {f"{service}:Base": postgres.url(service) for service in SERVICES},
            }
        )
        for service in SERVICES:
            runner.add_service(service_class(service, style))
        runner.start()
        apps = apps_of(runner)
        urls = {service: postgres.url(service) for service in SERVICES}
        where = Where("embedded", style, port, token, urls, folder, collector=collector)
        servers = [listening(listener, gateway_of(apps, Page(where)), config)]
        if not style.has_broker:
            servers.append(listening(internal, internal_gateway_of(apps), config))
        died = [eventlet.spawn(container.wait) for container in runner.containers]
        for one in died:
            one.link(lambda _: stop.ready() or stop.send())
        on_ready()
        stop.wait()
        for server in servers:
            server.kill()
        broker.Transport.hurry()
        runner.stop()


def listening(listener: socket.socket, gateway: Gateway, config: dict[str, Any]) -> Any:
    """Return the green thread that serves `gateway` on `listener`."""
    return eventlet.spawn(
        wsgi.server,
        listener,
        gateway,
        max_size=config["MAX_CONNECTIONS"],
        protocol=protocol_of(SHOP.name),
        log_output=False,
        debug=False,
        socket_timeout=config["REQUEST_TIMEOUT_S"],
        keepalive=KEEP_ALIVE_S,
    )


def apps_of(runner: ServiceRunner) -> dict[str, web.Server]:
    """Return the web servers of the services, which do not listen, by the names of the services."""
    return {
        container.service_name: extension
        for container in runner.containers
        for extension in container.subextensions
        if isinstance(extension, web.Server)
    }


def metrics_of(servers: dict[str, web.Server]) -> Response:
    """Return the metrics of the process, when each service has looked at its database."""
    for server in servers.values():
        server.health.measure()
    return health.metrics_now()


def internal_gateway_of(servers: dict[str, web.Server]) -> Gateway:
    """Return what the services call each other by."""
    return Gateway({name: server.app for name, server in servers.items()}, own={}, routes=INTERNAL_ROUTES)


def gateway_of(servers: dict[str, web.Server], own_page: WsgiApp) -> Gateway:
    """Return the four services, and the page, behind one WSGI application."""

    def asks(server: web.Server) -> Callable[[], bool]:
        return lambda: bool(server.health.ready().status_code == 200)

    checks = {name: asks(server) for name, server in servers.items()}
    return Gateway(
        {name: server.app for name, server in servers.items()},
        own={
            "/health/live": lambda environ, start: health.live(Request(environ))(environ, start),
            "/health/ready": ready(checks),
            "/metrics": lambda environ, start: metrics_of(servers)(environ, start),
        },
        page=own_page,
    )
