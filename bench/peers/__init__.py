"""The same order flow on other frameworks: how to install each, and how to start it.

A folder each: `fastapi`, `node`, `go`. What they have in common stands in `Peer`: three processes, one for each role,
with tables, queues and events of the same names but for the prefix.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import requests

from bench.contenders import MONEY, READY_S, USERS, Finished, Servers, pids_of
from services.local import needs
from services.local.installing import LOGS, ROOT, Failed, npm, pip_install, say, watched
from services.local.net import HOST, accepts, free_port, wait_for
from services.local.supervisor import Supervisor

HERE = Path(__file__).parent
ROLES = ("orders", "billing", "notifications")


class Peer:
    """One of the peers, running on given servers, where it has databases and queues of its own."""

    name: str
    folder: Path

    @classmethod
    def install(cls) -> None:
        """Install or build what it needs, if that is not there yet. Raises NotInstalled and Failed."""
        raise NotImplementedError

    @classmethod
    def versions(cls) -> str:
        """Return the versions of its language and libraries, those that are installed or will be."""
        raise NotImplementedError

    @classmethod
    def command(cls, port: int) -> list[str]:
        """Return the command of a process that serves HTTP on `port`."""
        raise NotImplementedError

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.ports = {role: free_port() for role in ROLES}
        self.supervisor = Supervisor(say=lambda _: None)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['orders']}"

    def database(self, role: str) -> str:
        return f"{self.folder.name}_{role}"

    def start(self) -> None:
        """Start all roles; each listens once it is ready."""
        self.servers.postgres.ensure_databases(map(self.database, ROLES))
        for role, port in self.ports.items():
            self.supervisor.add(
                role,
                self.command(port),
                env={
                    "ROLE": role,
                    "PORT": str(port),
                    "DSN_BASE": self.servers.postgres.url("").replace("+psycopg2", ""),
                    "AMQP_URI": self.servers.rabbitmq.uri,
                },
                cwd=self.folder,
                log=self.servers.folder / f"{self.database(role)}.log",
            )
        self.supervisor.start()
        logs = f"the peer on {self.name}; its logs are in {self.servers.folder}"
        wait_for(lambda: all(map(accepts, self.ports.values())), READY_S, logs)

    def stop(self) -> None:
        self.supervisor.stop()

    def pids(self) -> dict[str, int]:
        return pids_of(self.supervisor)

    def users(self) -> list[str]:
        users = [str(uuid4()) for _ in range(USERS)]
        for user_id in users:
            account = f"http://{HOST}:{self.ports['billing']}/billing/accounts/{user_id}"
            requests.post(account, timeout=30).raise_for_status()
            requests.post(f"{account}/deposit", json={"amount": MONEY}, timeout=30).raise_for_status()
        return users

    def finished(self) -> Finished:
        counts = {
            "orders": "select count(*) from orders where status = 'paid'",
            "billing": "select count(*) from entries where outcome = 'paid'",
            "notifications": "select count(*) from letters where kind = 'paid'",
        }
        return Finished(*(self.servers.ask(self.database(role), counts[role]) for role in ROLES))

    def unrecorded(self) -> int:
        waiting = "select count(*) from outbox where published_at is null"
        return int(self.servers.ask(self.database("orders"), waiting))

    def last_letter_at(self) -> float:
        newest = "select extract(epoch from max(created_at)) from letters"
        return float(self.servers.ask(self.database("notifications"), newest))


class FastAPI(Peer):
    """FastAPI, asyncpg and aio-pika, in a virtual environment of its own."""

    name = "FastAPI"
    folder = HERE / "fastapi"
    PYTHON = folder / ".venv" / "bin" / "python"
    REQUIREMENTS = folder / "requirements.in"  # requirements.txt has the hashes of these, and of what they bring
    NAMED = ("fastapi", "uvicorn", "asyncpg", "aio-pika")

    @classmethod
    def install(cls) -> None:
        needs.ensure([needs.VENV])
        if not cls.PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", str(cls.PYTHON.parents[1])], check=True)
        watched(
            "the peer on FastAPI",
            pip_install(str(cls.folder / "requirements.txt"), str(cls.PYTHON)),
            LOGS / "pip-fastapi.log",
            lambda output: f"{len(re.findall('^Collecting ', output, re.M))} packages found",
        )

    @classmethod
    def versions(cls) -> str:
        pins = [line.replace("==", " ") for line in cls.REQUIREMENTS.read_text().split()]
        return ", ".join(pin for pin in pins if pin.startswith(cls.NAMED))

    @classmethod
    def command(cls, port: int) -> list[str]:
        return [str(cls.PYTHON), "-m", "uvicorn", "peer:app", "--port", str(port), "--log-level", "warning"]


class Node(Peer):
    """Fastify, node-postgres and amqplib, from the package-lock.json in the folder."""

    name = "Node"
    folder = HERE / "node"

    @classmethod
    def install(cls) -> None:
        needs.ensure([needs.NPM, needs.NEW_NODE])
        lock, installed = cls.folder / "package-lock.json", cls.folder / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm(str(cls.folder.relative_to(ROOT)))

    @classmethod
    def versions(cls) -> str:
        pins = json.loads((cls.folder / "package.json").read_text())["dependencies"]
        node = ".".join(map(str, needs.node_version())) or "is not installed"
        return ", ".join([f"Node.js {node}", *(f"{name} {version}" for name, version in pins.items())])

    @classmethod
    def command(cls, port: int) -> list[str]:
        return ["node", "peer.js"]


class Go(Peer):
    """net/http, pgx and amqp091-go, all from Debian's packages: nothing is fetched from elsewhere."""

    name = "Go"
    folder = HERE / "go"
    BUILT = ROOT / ".run" / "bench" / "go"

    @classmethod
    def install(cls) -> None:
        needs.ensure([needs.GO])
        watched(
            "the peer in Go",
            ["go", "build", "-o", str(cls.BUILT / "peer"), f"./{cls.folder.relative_to(ROOT)}"],
            LOGS / "go-build.log",
            lambda _: "compiling",
            env={
                "GO111MODULE": "off",
                "GOPATH": str(needs.GO_PATH),
                "GOCACHE": str(cls.BUILT / "cache"),
                "GOFLAGS": "",
                "CGO_ENABLED": "0",
            },
            verb="Building",
        )

    @classmethod
    def versions(cls) -> str:
        if not needs.GO.is_there():
            return "not installed"
        go = subprocess.run(["go", "version"], capture_output=True, text=True).stdout.split()[2]
        return ", ".join([go.replace("go", "Go ", 1), *cls.libraries()])

    @classmethod
    def libraries(cls) -> list[str]:
        """Return Debian's packages of libraries with their versions."""
        query = ["dpkg-query", "--show", "--showformat", "${Package} ${source:Upstream-Version}\n", *needs.GO.packages]
        if not shutil.which(query[0]):
            return []
        shown = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        return sorted(line.removeprefix("golang-github-").replace("-dev ", " ") for line in shown if "-dev " in line)

    @classmethod
    def command(cls, port: int) -> list[str]:
        return [str(cls.BUILT / "peer")]


ALL: tuple[type[Peer], ...] = (FastAPI, Node, Go)


def installed(wanted: Sequence[type[Peer]] = ALL) -> list[type[Peer]]:
    """Install the peers; return those that can run here, and say in a line of each other why it is left out."""
    found = []
    for peer in wanted:
        try:
            peer.install()
        except (needs.NotInstalled, Failed) as error:
            say(f"The peer {peer.name} is left out: {str(error).splitlines()[0]}")
        else:
            found.append(peer)
    return found


def versions() -> dict[str, str]:
    """Return the versions of each peer by its name."""
    return {peer.name: peer.versions() for peer in ALL}
