"""One process of one service by itself, and what it has taken.

CPU is read as in `load.py`. How many orders shared a round is read off the tables: a round is a transaction, and each
row names its own (`xmin`).
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench import stub
from bench.contenders import READY_S, Servers, pids_of, seconds_of
from services.local.gateway import Backend
from services.local.net import HOST, free_port, wait_for
from services.local.stack import NAMEKO, ROOT, database_variable
from services.local.supervisor import Supervisor
from services.ops.migrate import upgrade
from services.shop import DEFAULT_STYLE, STYLES, module_of

BUSY = 0.9  # of a core, or of all cores: from here on it is the limit
ROWS = {"orders": "orders", "billing": "operations", "notifications": "letters"}


@dataclass(frozen=True)
class Taken:
    """What one process has taken. CPU is in milliseconds an order; `cores` says how many each kind of process used."""

    service: str
    load: str
    orders: int
    batch: float  # orders that shared a round, on average
    per_second: float
    service_ms: float
    broker_ms: float
    database_ms: float
    load_ms: float
    wal_bytes: float  # an order
    cores: dict[str, float]

    @property
    def limited_by(self) -> str:
        """Return what was busy all the time."""
        alone = {name: used for name, used in self.cores.items() if name in (self.service, "stub", "load")}
        name = max(alone, key=lambda one: alone[one])
        if alone[name] >= BUSY:
            return name
        if sum(self.cores.values()) >= BUSY * len(os.sched_getaffinity(0)):
            return "all cores"
        return "waiting"

    @property
    def most_per_second(self) -> float:
        """Return what the process would take with a core of its own that is never idle."""
        return 1000 / self.service_ms

    def line(self) -> str:
        return (
            f"{self.service:13} {self.load:26} {self.per_second:6.0f} orders/s, {self.batch:5.1f} a round, "
            f"CPU an order {self.service_ms:.3f} + {self.broker_ms:.3f} + {self.database_ms:.3f} ms, "
            f"limit: {self.limited_by}"
        )


class Alone:
    """One process of one service in the default style, on given servers, and the stub where it needs one."""

    def __init__(self, servers: Servers, service: str, settings: dict[str, str] | None = None) -> None:
        self.servers = servers
        self.service = service
        self.port = free_port()
        self.supervisor = Supervisor(say=lambda _: None)
        servers.postgres.ensure_databases([service])
        url, style = servers.postgres.url(service), STYLES[DEFAULT_STYLE]
        upgrade(service, url, style)
        if service == "orders":
            self._add("stub", [sys.executable, "-m", stub.__name__, servers.rabbitmq.uri], {})
        environment = {
            "STYLE": style.name,
            "AMQP_URI": servers.rabbitmq.uri,
            database_variable(service): url,
            "WEB_SERVER_ADDRESS": f"{HOST}:{self.port}",
            **(settings or {}),
        }
        self._add(service, [NAMEKO, "run", "--config", "config.yaml", module_of(service, style)], environment)

    def _add(self, name: str, argv: Sequence[str], environment: dict[str, str]) -> None:
        self.supervisor.add(name, argv, env=environment, cwd=ROOT, log=self.servers.folder / f"{name}.log")

    @contextmanager
    def running(self) -> Iterator["Alone"]:
        backend = Backend(self.service, [self.port], timeout_s=5)
        self.supervisor.start()
        try:
            wait_for(lambda: (backend.health() or {}).get("broker") == "up", READY_S, f"{self.service} to be ready")
            yield self
        finally:
            self.supervisor.stop()

    def rows(self) -> tuple[int, int]:
        """Return how many rows there are, and how many transactions wrote them."""
        table = ROWS[self.service]
        query = f"select array[count(*), count(distinct xmin::text)] from {table}"
        rows, rounds = self.servers.ask(self.service, query)
        return rows, rounds

    def used(self) -> dict[str, float]:
        """Return the seconds of CPU used so far, by kind of process."""
        times = os.times()
        return {
            **{name: seconds_of(pid) for name, pid in pids_of(self.supervisor).items()},
            "broker": seconds_of(self.servers.rabbitmq.pid),
            "database": seconds_of(self.servers.postgres.pid) - self.servers.asking_s(),
            "load": sum(times[:4]),
        }

    def measure(self, load: str, work: Callable[[], float]) -> Taken:
        """Have `work` done, which returns the seconds that it took, and see what it has cost."""
        rows, rounds = self.rows()
        wal, used = self.servers.wal(), self.used()
        seconds = work()
        used = {name: after - used[name] for name, after in self.used().items()}
        wal = self.servers.wal() - wal
        rows, rounds = (after - before for after, before in zip(self.rows(), (rows, rounds), strict=True))
        ms = {name: 1000 * one / rows for name, one in used.items()}
        taken = Taken(
            self.service,
            load,
            rows,
            rows / rounds,
            rows / seconds,
            ms[self.service],
            ms["broker"],
            ms["database"],
            ms["load"],
            wal / rows,
            {name: one / seconds for name, one in used.items()},
        )
        print(taken.line(), flush=True)
        return taken
