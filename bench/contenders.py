"""What is loaded: how to start it, which users to load it with, and how many of its orders are finished."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import psutil
import psycopg2
import requests
from sqlalchemy import make_url

from services.local.net import HOST, free_port
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import GATEWAY, Stack, database_variable
from services.local.supervisor import Supervisor
from services.shop import SERVICES

USERS = 200
MONEY = 10**9
READY_S = 60
#: A connection with these options has no work done by parallel workers, nor its reading by workers for I/O.
ALL_IN_ONE_PROCESS = "-c max_parallel_workers_per_gather=0 -c effective_io_concurrency=0"


@dataclass(frozen=True)
class Finished:
    """How many orders are paid, how many payments are in the ledger, and how many letters are stored."""

    paid: int
    in_ledger: int
    letters: int

    def __sub__(self, before: "Finished") -> "Finished":
        return Finished(self.paid - before.paid, self.in_ledger - before.in_ledger, self.letters - before.letters)

    @property
    def agree(self) -> bool:
        return self.paid == self.in_ledger == self.letters


class Servers:
    """A PostgreSQL and a RabbitMQ, on which contenders have databases and queues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counters: dict[str, Any] = {}  # of ours, for counting; their work is not that of a contender
        self.postgres = Postgres(folder / "postgres")
        self.rabbitmq = RabbitMQ(folder / "rabbitmq")

    def __enter__(self) -> "Servers":
        self.rabbitmq.ensure_installed()
        try:
            self.rabbitmq.start()
            self.postgres.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._counters.values():
            connection.close()
        self._counters.clear()
        self.rabbitmq.stop()
        self.postgres.stop()

    def ask(self, database: str, query: str, values: object = None) -> Any:
        """Return the first value of the first row of `query`, or None."""
        if database not in self._counters:
            self._counters[database] = connect(self.postgres.url(database), ALL_IN_ONE_PROCESS)
        with self._counters[database].cursor() as cursor:
            cursor.execute(query, values)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def wal(self) -> int:
        """Return how many bytes PostgreSQL has written to its log so far."""
        return int(self.ask("postgres", "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"))

    def asking_s(self) -> float:
        """Return the seconds of CPU that `ask` has cost so far, all of it in the processes of its connections."""
        return sum(seconds_of(connection.info.backend_pid) for connection in self._counters.values())


def connect(url: str, options: str = "") -> Any:
    """Return a connection in autocommit mode."""
    parsed = make_url(url)
    connection = psycopg2.connect(
        host=parsed.host, port=parsed.port, user=parsed.username, dbname=parsed.database, options=options
    )
    connection.autocommit = True
    return connection


def seconds_of(pid: int) -> float:
    """Return the seconds of CPU of a process and its children, those that have ended included."""
    while True:
        try:
            process = psutil.Process(pid)
            return sum(sum(one.cpu_times()[:4]) for one in [process, *process.children(recursive=True)])
        except psutil.NoSuchProcess:
            if not psutil.pid_exists(pid):
                raise  # else a child has ended meanwhile, and is part of its parent by now


class Contender(Protocol):
    """An order flow on given servers; `peers` has those that are not ours."""

    name: str
    servers: Servers

    def start(self) -> None: ...

    def stop(self) -> None: ...

    @property
    def url(self) -> str:
        """Where orders are placed."""

    def pids(self) -> dict[str, int]:
        """Return the process ids whose work is the contender's, by name."""

    def users(self) -> list[str]:
        """Create users with money; return their ids."""

    def finished(self) -> Finished: ...

    def unrecorded(self) -> int:
        """Return how many events the outbox has not marked as published."""

    def last_letter_at(self) -> float:
        """Return when the newest letter was stored, in seconds since 1970."""


class Ours:
    """Our services, `replicas` processes of each. Two that run at the same time need `Servers` of their own."""

    def __init__(
        self,
        servers: Servers,
        name: str = "nameko-hw",
        replicas: int = 1,
        by_gateway: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Orders are placed at the service itself, as with the peers, or through the gateway."""
        self.servers = servers
        self.name = name
        self.by_gateway = by_gateway
        servers.postgres.ensure_databases(SERVICES)
        self._give_addresses()
        self.stack = Stack(servers.folder / "ours", free_port(), settings, replicas=replicas, say=lambda _: None)

    def _give_addresses(self) -> None:
        """Set the environment from which the stack takes its servers, when it is made and when it starts."""
        os.environ["AMQP_URI"] = self.servers.rabbitmq.uri
        for service in SERVICES:
            os.environ[database_variable(service)] = self.servers.postgres.url(service)

    def start(self) -> None:
        self._give_addresses()
        self.stack.start()

    def stop(self) -> None:
        self.stack.stop()

    @property
    def url(self) -> str:
        return self.stack.url if self.by_gateway else f"http://{HOST}:{self.stack.ports['orders'][0]}"

    def pids(self) -> dict[str, int]:
        """Return the process ids by name, without the gateway where the load does not go through it."""
        pids = pids_of(self.stack.supervisor)
        return {name: pid for name, pid in pids.items() if self.by_gateway or name != GATEWAY}

    def users(self) -> list[str]:
        return new_users(self.stack.url)

    def finished(self) -> Finished:
        return Finished(
            self.servers.ask("orders", "select count(*) from orders where status = 'paid'"),
            self.servers.ask(
                "billing", "select count(*) from operations where kind = 'payment' and outcome = 'accepted'"
            ),
            self.servers.ask("notifications", "select count(*) from letters where kind = 'order_paid'"),
        )

    def unrecorded(self) -> int:
        return int(self.servers.ask("orders", "select count(*) from outbox where published_at is null"))

    def last_letter_at(self) -> float:
        return float(self.servers.ask("notifications", "select extract(epoch from max(created_at)) from letters"))


@contextmanager
def running(*contenders: Contender) -> Iterator[dict[str, list[str]]]:
    """Start the contenders, and stop them at the end; yield the users of each by its name."""
    try:
        for contender in contenders:
            contender.start()
        yield {contender.name: contender.users() for contender in contenders}
    finally:
        for contender in contenders:
            contender.stop()


def pids_of(supervisor: Supervisor) -> dict[str, int]:
    found = {name: supervisor.pid(name) for name in supervisor.names()}
    return {name: pid for name, pid in found.items() if pid}


def new_users(url: str) -> list[str]:
    """Create users with money by our API; return their ids."""

    def one(_: int) -> str:
        made = requests.post(f"{url}/users", json={"name": "A user", "email": f"{uuid4()}@example.com"}, timeout=30)
        user_id: str = made.json()["id"]
        deposit = f"{url}/billing/accounts/{user_id}/deposit"
        requests.post(deposit, json={"amount": MONEY}, timeout=30).raise_for_status()
        return user_id

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, range(USERS)))
