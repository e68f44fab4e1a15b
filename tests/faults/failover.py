"""The system on a primary with a standby, of which the one is killed and the other promoted.

`python -m tests.faults.failover --times 10` does so again and again under load, and prints how long each took.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from services.local.net import free_port, wait_for
from services.local.postgres import Postgres
from services.local.server import Server
from services.local.stack import Stack
from tests.books import broken_promises, wait_until_quiet
from tests.commands import nameko_hw
from tests.load import Load

BACK_S = 60
APART = "billing"


class ApartStack(Stack):
    """The databases are on a pair, but for billing's, which is on a server of its own.

    So what the pair forgets can be seen: billing still knows. Four databases that forget alike still agree.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder, free_port(), settings, standby=True)
        self.ledger = Postgres(folder / "ledger")

    @property
    def servers(self) -> dict[str, Server]:
        return {**super().servers, "ledger": self.ledger}

    def database_url(self, service: str) -> str:
        return self.ledger.url(service) if service == APART else super().database_url(service)

    def _start_servers(self) -> None:
        self.ledger.start()
        self.ledger.ensure_databases([APART])
        super()._start_servers()


@dataclass
class Failover:
    """How long a failover took: until the standby took writes, and until a client was told that an order is paid."""

    promoted_s: float
    paid_s: float


def kill_and_promote(stack: Stack, load: Load) -> Failover:
    """Kill the primary under load, promote its standby, and wait for the first order that is paid after it."""
    started = time.monotonic()
    os.kill(stack.postgres.pid, signal.SIGKILL)
    stack.promote()
    promoted_s = time.monotonic() - started
    before = load.counted["paid"]
    wait_for(lambda: load.counted["paid"] > before, BACK_S, "an order to be paid")
    return Failover(promoted_s, time.monotonic() - started)


def again_and_again(stack: Stack, times: int) -> int:
    """Fail over so many times, print a line for each, and return how many of them have lost or doubled something."""
    bad = 0
    print("run  standby takes writes, s  an order is paid, s  new standby, s  slowest answer, s  answered 503  verdict")
    for run in range(1, times + 1):
        with Load(stack.url, clients=6, keyless=3, seed=run) as load:
            wait_for(lambda load=load: load.counted["paid"] > 20, BACK_S, "the load to run")
            took = kill_and_promote(stack, load)
            started = time.monotonic()
            stack.pair.standby.start()
            renewed_s = time.monotonic() - started
            wait_for(stack.is_ready, BACK_S, "everything to be up again")
        wait_until_quiet(stack)
        wrong = [*load.failures, *broken_promises(stack, load.sent)]
        is_clean = nameko_hw(stack, "audit").returncode == 0 and not wrong
        bad += not is_clean
        print(
            f"{run:>3}{took.promoted_s:>25.2f}{took.paid_s:>21.2f}{renewed_s:>16.2f}{load.slowest_s:>19.2f}"
            f"{load.counted['answered 503']:>14}  {'clean' if is_clean else wrong}",
            flush=True,
        )
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with Stack(Path(folder) / "stack", free_port(), say=lambda _: None, standby=True) as stack:
            sys.exit(1 if again_and_again(stack, arguments.times) else 0)


if __name__ == "__main__":
    main()
