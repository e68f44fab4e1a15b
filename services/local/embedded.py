"""Embedded mode: the four services, the broker and the gateway in one process, beside a PostgreSQL of its own.

Run by `nameko-hw run`, which calls `eventlet.monkey_patch()` before it imports this.
"""

import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventlet
from eventlet import wsgi
from eventlet.event import Event
from nameko.runners import ServiceRunner
from sqlalchemy import create_engine, text
from werkzeug.wrappers import Request

from services.kit.outbox.table import OutboxRow
from services.kit.web import health
from services.kit.web import server as web
from services.kit.web.documentation import Documentation
from services.kit.web.protocol import protocol_of
from services.local import broker
from services.local.gateway import Gateway, ready
from services.local.postgres import Postgres
from services.ops.migrate import upgrade
from services.shop import SERVICES, SHOP, service_class, services_with

log = logging.getLogger(__name__)


def serve(listener: socket.socket, folder: Path, config: dict[str, Any], on_ready: Any) -> None:
    """Serve on `listener` until SIGINT or SIGTERM; the data stays in `folder` between runs."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.ready() or stop.send())
    with Postgres(folder / "postgres") as postgres:
        postgres.ensure_databases(SERVICES)
        for service in SERVICES:
            upgrade(service, postgres.url(service))
        publish_again(postgres)
        runner = ServiceRunner(
            {
                **config,
                "AMQP_URI": broker.URI,
                "WEB_SERVER_ADDRESS": None,
                "DB_URIS": {f"{service}:Base": postgres.url(service) for service in SERVICES},
            }
        )
        for service in SERVICES:
            runner.add_service(service_class(service))
        runner.start()
        server = eventlet.spawn(
            wsgi.server,
            listener,
            gateway_of(runner),
            max_size=config["MAX_CONNECTIONS"],
            protocol=protocol_of(SHOP.name),
            log_output=False,
            debug=False,
            socket_timeout=config["REQUEST_TIMEOUT_S"],
            keepalive=60,
        )
        died = [eventlet.spawn(container.wait) for container in runner.containers]
        for one in died:
            one.link(lambda _: stop.ready() or stop.send())
        on_ready()
        stop.wait()
        server.kill()
        runner.stop()


def gateway_of(runner: ServiceRunner) -> Gateway:
    """Return the four services behind one WSGI application."""
    servers = {
        container.service_name: extension
        for container in runner.containers
        for extension in container.subextensions
        if isinstance(extension, web.Server)
    }

    def asks(server: web.Server) -> Callable[[], bool]:
        return lambda: bool(server.health.ready().status_code == 200)

    checks = {name: asks(server) for name, server in servers.items()}
    return Gateway(
        {name: server.app for name, server in servers.items()},
        own={
            "/": lambda environ, start: Documentation(SHOP).answer(Request(environ))(environ, start),
            "/health/live": lambda environ, start: health.live(Request(environ))(environ, start),
            "/health/ready": ready(checks),
            "/metrics": lambda environ, start: health.show_metrics(Request(environ))(environ, start),
        },
    )


def publish_again(postgres: Postgres) -> None:
    """Have every event that the outboxes still hold published again.

    The broker of this mode lives in memory: when the last run ended, it lost what it had not delivered. What was
    handled already is a duplicate to its handler.
    """
    for service in services_with(OutboxRow):
        engine = create_engine(postgres.url(service), hide_parameters=True)
        with engine.begin() as connection:
            connection.execute(text("update outbox set published_at = null, claimed_until = '-infinity'"))
        engine.dispose()
