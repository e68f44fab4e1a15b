"""How much memory the processes hold (resident set, MiB), at the start and after many orders."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from bench.contenders import READY_S, Ours, Servers, connect, new_users, running
from bench.load import SETTLED_S, run, wrk
from services.local.net import HOST, free_port, wait_for
from services.local.postgres import USER
from services.local.stack import ROOT
from services.local.supervisor import dies_with_parent, end

EMBEDDED_ORDERS = 2000
CLIENTS = 16
STOP_S = 30


def measure(folder: Path, seconds: float, after: Sequence[int]) -> dict[str, Any]:
    return {
        "stack": stack(folder / "stack", seconds, after),
        "embedded": embedded(folder / "embedded", seconds, min(EMBEDDED_ORDERS, after[-1])),
    }


def stack(folder: Path, seconds: float, after: Sequence[int]) -> list[dict[str, Any]]:
    """Read the memory of each service when it is ready, and after each number of orders in `after`."""
    with Servers(folder) as servers:
        ours = Ours(servers)
        with running(ours) as users:
            readings = [reading(0, ours.pids())]
            orders = 0
            for goal in after:
                while orders < goal:
                    orders += run(ours, users[ours.name], CLIENTS, seconds).orders
                readings.append(reading(orders, ours.pids()))
    return readings


def embedded(folder: Path, seconds: float, goal: int) -> list[dict[str, Any]]:
    """Read the memory of the one process that is everything besides PostgreSQL."""
    folder.mkdir(parents=True)
    with embedded_mode(folder) as (process, url):
        readings = [reading(0, {"embedded": process.pid})]
        users, orders = new_users(url), 0
        while orders < goal:
            figures = wrk(url, users, CLIENTS, seconds, folder)
            if figures["failed"]:
                raise AssertionError(f"embedded mode: {figures}")
            orders += int(figures["orders"])
        connection = connect(f"postgresql://{USER}@{HOST}:{port_of(folder / 'postgres')}/notifications")
        with connection.cursor() as cursor:

            def letters() -> int:
                cursor.execute("select count(*) from letters where kind = 'order_paid'")
                return int(cursor.fetchone()[0])

            wait_for(lambda: letters() >= orders, SETTLED_S, "every paid order to have its letter")
            readings.append(reading(letters(), {"embedded": process.pid}))
        connection.close()
    return readings


@contextmanager
def embedded_mode(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Start embedded mode as `make run` does, and stop it at the end; yield its process and its URL."""
    port = free_port()
    url = f"http://{HOST}:{port}"
    with (folder / "embedded.log").open("ab") as log:
        process = subprocess.Popen(
            [*dies_with_parent("TERM"), sys.executable, "-m", "services.ops.cli", "run", "--port", str(port)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "NAMEKO_HW_FOLDER": str(folder)},
            start_new_session=True,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"embedded mode ended; its log is {folder / 'embedded.log'}")
        try:
            return requests.get(f"{url}/health/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(is_ready, READY_S, "embedded mode")
        yield process, url
    finally:
        end(process, signal.SIGTERM, STOP_S)


def port_of(folder: Path) -> int:
    """Return the port of the PostgreSQL that runs in `folder`: line 4 of its pid file."""
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[3])


def reading(orders: int, pids: dict[str, int]) -> dict[str, Any]:
    mib = {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in pids.items()}
    print(f"after {orders} orders: " + ", ".join(f"{name} {held:.0f} MiB" for name, held in mib.items()), flush=True)
    return {"orders": orders, "mib": mib}
