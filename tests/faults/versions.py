"""Processes of two versions of each service, side by side on the same servers, behind one gateway."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from services.local.gateway import Backend
from services.local.net import HOST, free_port, wait_for
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import GATEWAY, NAMEKO, ROOT, Stack, database_variable
from services.local.supervisor import Supervisor
from services.shop import SERVICES, STYLES

READY_S = 60
MIGRATED_S = 60


@dataclass(frozen=True)
class Version:
    """A version of the code: where it is, and which module of a service Nameko starts."""

    name: str
    tree: Path
    module: str


@contextmanager
def shared_servers(folder: Path) -> Iterator[None]:
    """A broker and a PostgreSQL, which every Stack that is made meanwhile uses."""
    with (
        RabbitMQ(folder / "rabbitmq") as rabbitmq,
        Postgres(folder / "postgres") as postgres,
        pytest.MonkeyPatch.context() as patch,
    ):
        postgres.ensure_databases(SERVICES)
        patch.setenv("AMQP_URI", rabbitmq.uri)
        for service in SERVICES:
            patch.setenv(database_variable(service), postgres.url(service))
        yield


class Versions:
    """The system, each of whose services runs in one version, or in two at a time."""

    def __init__(self, folder: Path, settings: dict[str, str], *versions: Version) -> None:
        """Each version has a port of its own for each service, in the given order."""
        self.stack = Stack(folder, free_port(), settings, replicas=len(versions), style=STYLES["broker"])
        self.versions = versions
        self.lines: list[str] = []  # what the supervisors have said
        self.running: dict[tuple[Version, str], Supervisor] = {}

    def __enter__(self) -> Self:
        targets = [f"{service}={port}" for service, ports in self.stack.ports.items() for port in ports]
        self.gateway = Supervisor(say=self.lines.append)
        self.gateway.add(
            GATEWAY,
            [sys.executable, "-m", "services.ops.cli", "gateway", "--port", str(self.stack.port), *targets],
            env=self.stack.environment(),
            cwd=ROOT,
            log=self.stack.folder / "logs" / "gateway.log",
        )
        self.gateway.start()
        return self

    def __exit__(self, *_: BaseException | type[BaseException] | TracebackType | None) -> None:
        self._end_all(list(self.running))
        self.gateway.stop()

    def url(self, version: Version, service: str) -> str:
        """Return where a replica itself answers."""
        return f"http://{HOST}:{self._port(version, service)}"

    def _port(self, version: Version, service: str) -> int:
        return self.stack.ports[service][self.versions.index(version)]

    def _environment(self, version: Version) -> dict[str, str]:
        return {**self.stack.environment(), "PYTHONPATH": str(version.tree)}

    def migrate(self, version: Version) -> None:
        """Migrate all databases by the command of a version, as its pods do before they start."""
        done = subprocess.run(
            [sys.executable, "-m", "services.ops.cli", "migrate"],
            cwd=version.tree,
            env={**os.environ, **self._environment(version)},
            capture_output=True,
            text=True,
            timeout=MIGRATED_S,
        )
        assert done.returncode == 0, f"{version.name} migrates: {done.stdout}{done.stderr}"

    def start(self, version: Version, *services: str) -> None:
        """Start a replica of each of these services, and wait until all are ready."""
        for service in services:
            name = f"{service}-{version.name}"
            supervisor = self.running[version, service] = Supervisor(say=self.lines.append)
            supervisor.add(
                name,
                [NAMEKO, "run", "--config", "config.yaml", f"services.{service}.{version.module}"],
                env={
                    **self._environment(version),
                    "WEB_SERVER_ADDRESS": f"{HOST}:{self._port(version, service)}",
                },
                cwd=version.tree,
                log=self.stack.folder / "logs" / f"{name}.log",
            )
            supervisor.start()
        for service in services:
            backend = Backend(service, [self._port(version, service)], timeout_s=5)
            wait_for(
                lambda backend=backend: backend.health().get("broker") == "up",
                READY_S,
                f"{service} of {version.name} to be ready",
            )

    def stop(self, version: Version, *services: str) -> None:
        """Ask these replicas to stop, and wait until they have; each must have finished what it had begun."""
        self._end_all([(version, service) for service in services])
        for service in services:
            assert f"{service}-{version.name}: ended with code 0" in self.lines, self.lines

    def _end_all(self, replicas: list[tuple[Version, str]]) -> None:
        supervisors = [self.running.pop(one) for one in replicas]
        with ThreadPoolExecutor(max(len(supervisors), 1)) as pool:
            list(pool.map(Supervisor.stop, supervisors))
