"""Embedded mode: the four services, the broker and the front door in one process, beside a PostgreSQL of its own.

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

from services.contracts import EVENTS
from services.kit.web import server as web
from services.kit.web.documentation import Documentation
from services.kit.web.protocol import protocol_of
from services.local import broker
from services.local.gateway import FrontDoor, ready
from services.local.postgres import Postgres
from services.ops.migrate import upgrade
from services.shop import SERVICES, SHOP, service_class

log = logging.getLogger(__name__)


def serve(listener: socket.socket, folder: Path, config: dict[str, Any], on_ready: Any) -> None:
    """Serve on `listener` until SIGINT or SIGTERM; `folder` keeps the data between runs."""
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
        door = eventlet.spawn(
            wsgi.server,
            listener,
            front_door(runner),
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
        door.kill()
        runner.stop()


def front_door(runner: ServiceRunner) -> FrontDoor:
    """The four services behind one WSGI application."""
    servers = {
        container.service_name: extension
        for container in runner.containers
        for extension in container.subextensions
        if isinstance(extension, web.Server)
    }

    def asks(server: web.Server) -> Callable[[], bool]:
        return lambda: bool(server.ready().status_code == 200)

    checks = {name: asks(server) for name, server in servers.items()}
    return FrontDoor(
        {name: server.app for name, server in servers.items()},
        own={
            "/": lambda environ, start: Documentation(SHOP).answer(Request(environ))(environ, start),
            "/health/live": lambda environ, start: web.live(Request(environ))(environ, start),
            "/health/ready": ready(checks),
            "/metrics": lambda environ, start: web.show_metrics(Request(environ))(environ, start),
        },
    )


def publish_again(postgres: Postgres) -> None:
    """Put every event that the outboxes still hold on its way again.

    The broker of this mode lives in memory: what it had not delivered when the last run ended, it has
    forgotten. The handlers find done what was handled.
    """
    for service in sorted({event.SOURCE for event in EVENTS}):
        engine = create_engine(postgres.url(service), hide_parameters=True)
        with engine.begin() as connection:
            connection.execute(text("update outbox set published_at = null, claimed_until = '-infinity'"))
        engine.dispose()
