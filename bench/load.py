"""One run: a number of clients for a number of seconds; then every order that was counted must be finished."""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.contenders import Contender, Finished, seconds_of
from services.local import needs
from services.local.net import wait_for

SCRIPT = Path(__file__).parent / "orders.lua"
SETTLED_S = 120
WARM_UP_CLIENTS, WARM_UP_S = 16, 3


@dataclass(frozen=True)
class Run:
    """The figures of one run. CPU is in milliseconds an order, the sum over all processes of a kind."""

    contender: str
    clients: int
    orders: int
    per_second: float  # while wrk ran
    per_second_to_letter: float  # until the last letter was stored
    p50_ms: float
    p99_ms: float
    application_ms: float
    broker_ms: float
    database_ms: float
    wal_kb: float = 0.0  # what PostgreSQL has written to its log, an order

    @property
    def cpu_ms(self) -> float:
        return self.application_ms + self.broker_ms + self.database_ms

    def line(self) -> str:
        return (
            f"{self.contender:12} {self.clients:3} clients  {self.per_second:6.0f} orders/s"
            f"  p50 {self.p50_ms:6.1f} ms  p99 {self.p99_ms:6.1f} ms  CPU {self.cpu_ms:.2f} ms an order"
        )


def in_turns(
    contenders: Sequence[Contender], users: dict[str, list[str]], clients: Iterable[int], pairs: int, seconds: float
) -> list[Run]:
    """Warm up, then load the contenders A B C A B C ..., `pairs` times for each number of clients."""
    for contender in contenders:
        run(contender, users[contender.name], WARM_UP_CLIENTS, min(WARM_UP_S, seconds))
    runs = []
    for number in clients:
        for _ in range(pairs):
            for contender in contenders:
                runs.append(run(contender, users[contender.name], number, seconds))
                print(runs[-1].line(), flush=True)
    return runs


def users_in_turns(
    contender: Contender, users: Mapping[str, Sequence[str]], clients: Iterable[int], pairs: int, seconds: float
) -> list[Run]:
    """Load one contender with the orders of these and those users in turns; a run is named after its users."""
    for some in users.values():
        run(contender, some, WARM_UP_CLIENTS, min(WARM_UP_S, seconds))
    runs = []
    for number in clients:
        for _ in range(pairs):
            for name, some in users.items():
                runs.append(replace(run(contender, some, number, seconds), contender=name))
                print(runs[-1].line(), flush=True)
    return runs


def run(contender: Contender, users: Sequence[str], clients: int, seconds: float) -> Run:
    """Load `contender`, wait for the last letter, and check that nothing was lost."""
    before, cpu_before, wal_before = contender.finished(), cpu(contender), contender.servers.wal()
    started_at = time.time()
    figures = wrk(contender.url, users, clients, seconds, contender.servers.folder)

    seen: list[Finished] = []

    def all_finished() -> Finished | None:
        """Return what is finished, once all is, and no more came: wrk leaves an order of each client under way."""
        seen.append(contender.finished() - before)
        done = seen[-1]
        is_all = done.agree and done.paid >= figures["orders"] and not contender.unrecorded()
        return done if is_all and seen[-2:] == [done, done] else None

    done = wait_for(all_finished, SETTLED_S, "every paid order to have its letter")
    assert done  # else that would have raised
    cpu_after, wal = cpu(contender), contender.servers.wal() - wal_before
    # An order whose answer came too late for wrk is finished too; that is at most one for each client.
    if figures["failed"] or not done.agree or not figures["orders"] <= done.paid <= figures["orders"] + clients:
        raise AssertionError(f"{contender.name}: wrk counted {figures}, but there are {done}")
    application, broker, database = (
        1000 * (cpu_after[kind] - cpu_before[kind]) / done.paid for kind in ("application", "broker", "database")
    )
    return Run(
        contender.name,
        clients,
        done.paid,
        figures["orders"] / figures["seconds"],
        done.paid / (contender.last_letter_at() - started_at),
        figures["p50_ms"],
        figures["p99_ms"],
        application,
        broker,
        database,
        wal / 1000 / done.paid,
    )


def wrk(url: str, users: Sequence[str], clients: int, seconds: float, folder: Path) -> dict[str, float]:
    """Place orders of `users` at `url`; return the figures that orders.lua prints."""
    users_file = folder / "users.txt"
    users_file.write_text("\n".join(users))
    done = subprocess.run(
        [
            "wrk",
            "--threads",
            "1",
            "--connections",
            str(clients),
            "--duration",
            f"{seconds:g}s",
            "--timeout",
            "30s",
            "--script",
            str(SCRIPT),
            url,
        ],
        env={**os.environ, "USERS_FILE": str(users_file)},
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def cpu(contender: Contender) -> dict[str, float]:
    """Return the seconds of CPU used so far by kind of process, without the cost of our own counting."""
    servers = contender.servers
    return {
        "application": sum(map(seconds_of, contender.pids().values())),
        "broker": seconds_of(servers.rabbitmq.pid),
        "database": seconds_of(servers.postgres.pid) - servers.asking_s(),
    }


def ensure_wrk() -> None:
    """Install wrk where it is missing, if we are root or sudo lets us. Raises NotInstalled, which names what to do."""
    needs.ensure([needs.WRK])
