"""What each style does while something is down: killed, or frozen, under a steady load."""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.clients import SteadyLoad
from bench.contenders import new_users
from bench.styles import StyledServers, is_finished, started, times
from services.local.net import wait_for
from services.local.stack import Stack
from services.ops.audit import Audit
from services.shop import SERVICES, STYLES

PER_SECOND = 20
BEFORE_S, AFTER_S = 3.0, 3.0
SETTLED_S = 120.0
VICTIMS = ("billing", "notifications", "users", "broker", "databases")
WAYS = ("killed", "frozen")


@dataclass
class Outage:
    """One run. Shares are of all orders sent while the victim was away; times count from its return."""

    style: str
    victim: str
    way: str
    orders: int
    accepted: float
    knew: float  # the share whose answer said paid or rejected
    longest_s: float
    decided_after_s: float
    letters_after_s: float
    violations: int
    timeline: dict[str, dict[int, int]]  # accepted, decided and letters in each second from the beginning


def measure(folder: Path, down_s: float) -> dict[str, Any]:
    """Do each harm to each style."""
    found = []
    with StyledServers(folder) as servers:
        users: list[str] = []
        for style in STYLES.values():
            with started(servers.stack(style)) as stack:
                users = users or new_users(stack.url)
                for victim, way in itertools.product(VICTIMS, WAYS):
                    if victim != "broker" or style.has_broker:
                        found.append(run(servers, stack, users, victim, way, down_s))
                        print(line(found[-1]), flush=True)
    return {"down_s": down_s, "per_second": PER_SECOND, "runs": [asdict(one) for one in found]}


def line(one: Outage) -> str:
    return (
        f"{one.style:8} {one.victim:14} {one.way:7} accepted {one.accepted:4.0%}  knew {one.knew:4.0%}"
        f"  longest {one.longest_s:5.1f} s  decided after {one.decided_after_s:5.1f} s"
        f"  letters after {one.letters_after_s:5.1f} s  {one.violations} violations"
    )


def run(servers: StyledServers, stack: Stack, users: Sequence[str], victim: str, way: str, down_s: float) -> Outage:
    """Do one harm under load; wait until everything is as it should be, and audit what was done meanwhile."""
    began = time.time()
    with SteadyLoad(stack.port, users, PER_SECOND) as load:
        time.sleep(BEFORE_S)
        away_at = time.time()
        with harmed(servers, stack, victim, way, down_s):
            time.sleep(down_s)
        back_at = time.time()
        time.sleep(AFTER_S)
    wait_for(lambda: finished(servers), SETTLED_S, f"the end of all orders after {victim} was {way}")
    decided, letters = times(servers, began - 1)
    urls = {service: stack.database_url(service) for service in SERVICES}
    since = datetime.fromtimestamp(began, UTC)
    report = Audit(urls, since, datetime.now(UTC), patience_s=5).run()
    during = [one for one in load.sent if away_at <= one.sent_at < back_at]
    return Outage(
        stack.style.name,
        victim,
        way,
        len(during),
        sum(200 <= one.status < 300 for one in during) / len(during),
        sum(one.status == 201 for one in during) / len(during),
        max(one.answered_at - one.sent_at for one in during),
        max([0.0, *(at - back_at for at in decided.values())]),
        max([0.0, *(at - back_at for at in letters.values())]),
        len(report.violations),
        {
            "accepted": by_second(began, [one.answered_at for one in load.sent if one.id]),
            "decided": by_second(began, decided.values()),
            "letters": by_second(began, letters.values()),
        },
    )


def by_second(began: float, moments: Any) -> dict[int, int]:
    return dict(sorted(Counter(int(at - began) for at in moments).items()))


def finished(servers: StyledServers) -> bool:
    try:
        return is_finished(servers)
    except Exception:  # a database that has just come back
        servers.forget_connections()
        return False


@contextmanager
def harmed(servers: StyledServers, stack: Stack, victim: str, way: str, down_s: float) -> Iterator[None]:
    """A victim is away meanwhile. A killed service is started again by its supervisor, a killed server by us."""
    server = {"broker": servers.rabbitmq, "databases": servers.postgres}.get(victim)
    if way == "frozen":
        pid = server.pid if server else stack.supervisor.pid(victim)
        assert pid
        with frozen(pid):
            yield
    elif server:
        os.kill(server.pid, signal.SIGKILL)
        servers.forget_connections()
        yield
        server.start()
    else:
        stack.supervisor.kill(victim, down_s)
        yield
        wait_for(lambda: stack.supervisor.pid(victim), 10, f"{victim} to start again")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process and its children do not run meanwhile."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()
