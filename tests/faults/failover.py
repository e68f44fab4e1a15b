"""The system on a primary with a standby, of which the one is killed and the other promoted."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from services.local.net import free_port, wait_for
from services.local.postgres import Postgres
from services.local.server import Server
from services.local.stack import Stack
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
