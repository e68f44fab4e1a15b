"""The same order flow on other frameworks: how to install each, and how to start it.

A folder each. What they have in common stands in `Peer`: three processes, one for each role,
with tables, queues and events of the same names but for the prefix.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import requests

from bench.contenders import MONEY, READY_S, USERS, Finished, Servers, pids_of
from services.local import needs
from services.local.installing import LOGS, Failed, say, watched
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
    REQUIREMENTS = folder / "requirements.txt"
    NAMED = ("fastapi", "uvicorn", "asyncpg", "aio-pika")

    @classmethod
    def install(cls) -> None:
        needs.ensure([needs.VENV])
        if not cls.PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", str(cls.PYTHON.parents[1])], check=True)
        pip = [str(cls.PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        watched(
            "the peer on FastAPI",
            [*pip, "--requirement", str(cls.REQUIREMENTS)],
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


ALL: tuple[type[Peer], ...] = (FastAPI,)


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
