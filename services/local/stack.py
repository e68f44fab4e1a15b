"""Stack mode: one process for each service, real PostgreSQL and RabbitMQ, if the style has one, and a gateway."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from services.kit.db.connecting import with_driver
from services.kit.outbox.handover import publish_again
from services.kit.outbox.table import OutboxRow
from services.kit.tls import BrokerFiles
from services.local.cluster import Cluster
from services.local.gateway import Backend
from services.local.net import HOST, free_port, port_is_free, wait_for
from services.local.page import settings as page
from services.local.page.control import FILE, Control, ControlServer
from services.local.pair import Pair
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.server import CannotStart, Server
from services.local.supervisor import Supervisor, flushed
from services.ops.migrate import upgrade
from services.ops.running import ENVIRONMENT_FILE
from services.shop import SERVICES, Style, chosen_style, module_of, services_with

ROOT = Path(__file__).parents[2]
GATEWAY = "gateway"  # its name in the supervisor, beside those of the services
INTERNAL = "internal-gateway"  # ... of the one between services that have replicas and speak HTTP
READY_S = 60
LAST_BROKER = "broker"  # a file with the name of the private broker's folder
RETRY_S = 2.0  # after a server has failed to start
NAMEKO = str(Path(sys.executable).parent / "nameko")


def database_variable(service: str) -> str:
    """Return the name of the environment variable with the URL of a service's database; config.yaml reads it."""
    return f"{service.upper()}_DATABASE_URL"


class Stack:
    """The whole system in one style under a supervisor; `folder` keeps its data, logs and addresses.

    It uses the servers that AMQP_URI and the four *_DATABASE_URL in the environment name, or else private ones.
    `settings` are further environment variables for the services; `nameko` is how Nameko's command is called. With a
    `page_token` the gateway serves the page, and the services send it their traces. With a `standby`, the private
    PostgreSQL is the primary of a pair; `brokers` is the number of nodes of the private broker.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        settings: dict[str, str] | None = None,
        replicas: int = 1,
        say: Callable[[str], object] = flushed,
        nameko: Sequence[str] = (NAMEKO,),
        style: Style | None = None,
        page_token: str | None = None,
        standby: bool = False,
        brokers: int = 1,
    ) -> None:
        self.folder = folder
        self.style = style or chosen_style()
        self.port = port
        self.settings = settings or {}
        self.ports = {service: [free_port() for _ in range(replicas)] for service in SERVICES}
        self.internal_port = free_port() if replicas > 1 and not self.style.has_broker else None
        own_broker = self.style.has_broker and not os.environ.get("AMQP_URI")
        self.rabbitmq = RabbitMQ(folder / "rabbitmq") if own_broker and brokers == 1 else None
        self.cluster = Cluster(folder / f"rabbitmq-{brokers}", brokers) if own_broker and brokers > 1 else None
        self.pair = Pair(folder / "postgres") if standby and not given_databases() else None
        self.postgres = self.pair.primary if self.pair else None if given_databases() else Postgres(folder / "postgres")
        self.supervisor = Supervisor(say=say)
        self.say = say
        self.nameko = nameko
        self.page_token = page_token
        self.control = Control(self)
        self._control_server: ControlServer | None = None
        self._start_at: dict[Server, float] = {}  # of a server that failed to start, or is held down

    @property
    def environment_file(self) -> Path:
        return self.folder / ENVIRONMENT_FILE

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def amqp_uri(self) -> str:
        broker = self.cluster or self.rabbitmq
        return broker.uri if broker else os.environ["AMQP_URI"]

    def database_url(self, service: str) -> str:
        if server := self.pair or self.postgres:
            return server.url(service)
        return with_driver(os.environ[database_variable(service)])

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the services and the commands find the servers."""
        return {
            "STYLE": self.style.name,
            **({"AMQP_URI": self.amqp_uri} if self.style.has_broker else self.service_urls()),
            **({"QUEUE_TYPE": "quorum"} if self.cluster else {}),
            **{name: os.environ[name] for name in BrokerFiles._fields if name in os.environ},
            "TRUSTED_PROXIES": f"[{HOST}]",  # the gateway
            **{database_variable(service): self.database_url(service) for service in SERVICES},
            # eventlet's own note, see services/__init__.py
            "PYTHONWARNINGS": "ignore::Warning:nameko.cli.commands,ignore::Warning:nameko.containers",
            **self.settings,
        }

    def service_urls(self) -> dict[str, str]:
        """Return the environment variables by which services find each other, where they speak HTTP."""
        return {
            f"{service.upper()}_URL": f"http://127.0.0.1:{self.internal_port or port}"
            for service, [port, *_] in self.ports.items()
        }

    def environment_of(self, service: str) -> dict[str, str]:
        """Return the same for the processes of one service; a test overrides it to put a proxy before a server."""
        return self.environment()

    def environment_of_gateway(self) -> dict[str, str]:
        """Return the same for the gateway, which serves the page."""
        if self.page_token is None:
            return self.environment()
        return self.environment() | {
            page.TOKEN: self.page_token,
            page.CONTROL: str(self.folder / FILE),
        }

    def start(self) -> None:
        """Start everything, and return when every service is ready."""
        if not port_is_free(self.port):
            raise CannotStart(f"port {self.port}: Address already in use. Choose another with PORT=...")
        try:
            self._start_servers()
            self._start_services()
        except BaseException:
            self.stop()
            raise

    def _start_servers(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if broker := self.cluster or self.rabbitmq:
            if RabbitMQ.find() is None:
                self.say("RabbitMQ: not installed yet, that takes a minute")
            RabbitMQ.ensure_installed()
            broker.start()
            self.say(f"RabbitMQ: {broker.uri}")
        if server := self.pair or self.postgres:
            server.start()
            server.ensure_databases(SERVICES)
            self.say(f"PostgreSQL: {server.url('<service>')}")
        for service in SERVICES:
            upgrade(service, self.database_url(service), self.style)
        self._tell_a_new_broker()

    def _tell_a_new_broker(self) -> None:
        """Have all events published again if the private broker is another one than at the last start.

        What the other one had not delivered is still there, and nobody listens to it. The handlers find done what is.
        """
        if not (broker := self.cluster or self.rabbitmq):
            return
        last = self.folder / LAST_BROKER
        if last.exists() and last.read_text() != broker.folder.name:
            for service in services_with(OutboxRow):
                publish_again(self.database_url(service))
        last.write_text(broker.folder.name)

    def _start_services(self) -> None:
        if self.page_token is not None:
            try:
                self._control_server = ControlServer(self.control, self.folder / FILE)
            except OSError as error:  # the path is too long for a socket
                self.say(f"page: it can break nothing: {error}")
        traced = {} if self.page_token is None else page.traced_to(self.port)
        for service, ports in self.ports.items():
            for number, port in enumerate(ports, start=1):
                self.supervisor.add(
                    name_of(service, number),
                    [*self.nameko, "run", "--config", "config.yaml", module_of(service, self.style)],
                    env={**traced, **self.environment_of(service), "WEB_SERVER_ADDRESS": f"127.0.0.1:{port}"},
                    cwd=ROOT,
                    log=self.folder / "logs" / f"{name_of(service, number)}.log",
                )
        self._add_gateway(GATEWAY, self.port)
        if self.internal_port:
            self._add_gateway(INTERNAL, self.internal_port, "--internal")
        self.environment_file.touch(0o600)  # there may be a secret in it
        self.environment_file.write_text(json.dumps(self.environment(), indent=2))
        self.supervisor.start()
        wait_for(self.is_ready, READY_S, f"the services to be ready; their logs are in {self.folder / 'logs'}")

    def _add_gateway(self, name: str, port: int, *options: str) -> None:
        targets = [f"{service}={port}" for service, ports in self.ports.items() for port in ports]
        self.supervisor.add(
            name,
            [sys.executable, "-m", "services.ops.cli", "gateway", "--port", str(port), *options, *targets],
            env=self.environment_of_gateway() if name == GATEWAY else self.environment(),
            cwd=ROOT,
            log=self.folder / "logs" / f"{name}.log",
        )

    def is_ready(self) -> bool:
        """Return whether every replica of every service and the gateway are ready, and all see the broker."""
        broker = "up" if self.style.has_broker else None
        backends = [Backend(service, [port], timeout_s=5) for service, ports in self.ports.items() for port in ports]
        return (
            all((health := one.health()) and health.get("broker") == broker for one in backends)
            and Backend(GATEWAY, [self.port], timeout_s=5).is_ready()
        )

    def keep_servers_running(self) -> None:
        """Start a private server again that has died, or failed to start; the supervisor does this for services."""
        for name, server in self.servers.items():
            if not server.running and time.monotonic() >= self._start_at.get(server, 0.0):
                self.say(f"{name}: died, starts again")
                try:
                    server.start()
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    why = (str(error).splitlines() or [type(error).__name__])[0]
                    self.say(f"{name}: did not start, is tried again in {RETRY_S:g} s: {why}")
                    self._start_at[server] = time.monotonic() + RETRY_S

    @property
    def servers(self) -> dict[str, Server]:
        """Return the private servers by what they are now; the primary stands before its standby."""
        standby = self.pair.standby if self.pair else None
        nodes = {f"broker-{number}": node for number, node in enumerate(self.cluster.nodes, 1)} if self.cluster else {}
        known = {"broker": self.rabbitmq, **nodes, "database": self.postgres, "standby": standby}
        return {name: server for name, server in known.items() if server}

    def promote(self) -> None:
        """Make the standby the primary; see Pair. The other server is started again, as its standby."""
        if self.pair is None:
            raise CannotStart("there is no standby: start the stack with STANDBY=1")
        self.pair.promote()
        self.postgres = self.pair.primary

    def hold_down(self, server: Server, down_s: float) -> None:
        """Start a server that is about to be killed only after so many seconds."""
        self._start_at[server] = time.monotonic() + down_s

    def starts_at(self, server: Server) -> float:
        """Return when a server that has died is started again, by the monotonic clock."""
        return self._start_at.get(server, 0.0)

    def stop(self) -> None:
        """Stop the services, then the servers."""
        if self._control_server:
            self._control_server.stop()
            self._control_server = None
        self.control.thaw_all()
        self.supervisor.stop()
        if self.cluster:
            self.cluster.stop()  # all nodes at once
        for server in self.servers.values():
            server.stop()
        if self.supervisor.names():  # else another stack runs in this folder, and it is its file
            self.environment_file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def name_of(service: str, number: int) -> str:
    """Return the name of a replica in the supervisor: that of its service, with a number from the second one on."""
    return service if number == 1 else f"{service}-{number}"


def given_databases() -> bool:
    """Return whether the environment names the databases. Raises CannotStart if it names some of them only."""
    missing = [database_variable(service) for service in SERVICES if not os.environ.get(database_variable(service))]
    if missing and len(missing) < len(SERVICES):
        raise CannotStart(f"{', '.join(missing)}: not set, though other databases are; give all four or none")
    return not missing


def serve(folder: Path, port: int, token: str, on_ready: Callable[[], None], **options: Any) -> None:
    """Run the stack with its page, and with these `options` of a Stack, until SIGINT or SIGTERM."""
    stack = Stack(folder, port, page_token=token, **options)
    stack.start()
    try:
        on_ready()
        stack.supervisor.run_forever(each_round=stack.keep_servers_running)
    finally:
        stack.stop()
