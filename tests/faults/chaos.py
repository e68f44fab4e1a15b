"""Random faults under load: `make faults DURATION=60 SEED=1`.

Clients that retry with their Idempotency-Key keep the system busy, while services, the broker and the databases
are killed and frozen and messages come twice. At the end everything is up again, and the audit must be clean.
"""
import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from kombu.exceptions import KombuError
from sqlalchemy.exc import SQLAlchemyError

from services.local import supervisor
from services.local.net import free_port, wait_for
from services.local.stack import Stack
from tests.books import rows, wait_until_quiet
from tests.broker import publish
from tests.client import Api
from tests.commands import nameko_hw, replicas
from tests.faults.test_draining import suspended
from tests.load import Load

CLIENTS = 4
UP_S = 90
LONGEST_FREEZE_S = 4.0
PAUSE_S = (0.3, 1.5)
SETTLED_S = 3.0  # before the first fault: a broker that dies while its queues are being declared may forget them

SETTINGS = {
    "RPC_TIMEOUT_S": "1", "REQUEST_TIMEOUT_S": "3", "DB_TIMEOUT_S": "1.5", "PUBLISH_TIMEOUT_S": "2",
    "OUTBOX_LEASE_S": "3", "RECOVERY_AFTER_S": "4", "RECOVERY_INTERVAL_S": "1", "DRAIN_TIMEOUT_S": "4",
    "AMQP_HEARTBEAT_S": "5",
}


class Chaos:
    """Does harm to a running stack, one fault after the other."""

    def __init__(self, stack: Stack, dice: random.Random) -> None:
        assert stack.rabbitmq and stack.postgres
        self.stack = stack
        self.rabbitmq = stack.rabbitmq
        self.postgres = stack.postgres
        self.dice = dice
        self.done: Counter[str] = Counter()

    def run(self, duration_s: float) -> None:
        faults: dict[Callable[[], None], int] = {
            self.kill_a_service: 6, self.freeze_a_service: 4, self.stop_a_service: 2, self.kill_the_broker: 1,
            self.freeze_the_broker: 2, self.kill_the_database: 2, self.freeze_the_database: 2,
            self.publish_events_again: 4, self.repeat_payments: 4,
        }
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            [fault] = self.dice.choices(list(faults), list(faults.values()))
            fault()
            self.done[fault.__name__.replace("_", " ")] += 1
            time.sleep(self.dice.uniform(*PAUSE_S))

    def kill_a_service(self) -> None:
        self._signal_a_service(signal.SIGKILL)

    def stop_a_service(self) -> None:
        self._signal_a_service(signal.SIGTERM)

    def freeze_a_service(self) -> None:
        running = list(replicas(self.stack))
        if running:
            _, process = self.dice.choice(running)
            with suppress(psutil.NoSuchProcess):
                self._freeze(process.pid)

    def kill_the_broker(self) -> None:
        self._kill(self.rabbitmq)

    def freeze_the_broker(self) -> None:
        self._freeze(self.rabbitmq.pid)

    def kill_the_database(self) -> None:
        self._kill(self.postgres)

    def freeze_the_database(self) -> None:
        self._freeze(self.postgres.pid)

    def publish_events_again(self) -> None:
        """Let the relays publish a tenth of all events once more."""
        for service in ("orders", "users"):
            with suppress(SQLAlchemyError):
                rows(self.stack, service, """update outbox set published_at = null, claimed_until = '-infinity'
                                             where published_at is not null and random() < 0.1 returning 1""")

    def repeat_payments(self) -> None:
        """Send requests to pay again, as a broker does after a crash."""
        with suppress(SQLAlchemyError, KombuError, OSError):
            found = rows(self.stack, "orders", "select id, user_id, price from orders order by random() limit 5")
            payments = [{"operation_id": str(id_), "user_id": str(user_id), "amount": price}
                        for id_, user_id, price in found]
            for method, arguments in [("pay_all", {"payments": payments}), *(("pay", one) for one in payments)]:
                publish(self.stack, "nameko-rpc", f"billing.{method}", {"args": [], "kwargs": arguments},
                        reply_to=str(uuid4()))

    def _signal_a_service(self, number: signal.Signals) -> None:
        running = list(replicas(self.stack))
        if running:
            _, process = self.dice.choice(running)
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _freeze(self, pid: int) -> None:
        with suspended(pid):
            time.sleep(self.dice.uniform(0.5, LONGEST_FREEZE_S))

    def _kill(self, server) -> None:
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not server.running, 10, "the server to be dead")
        time.sleep(self.dice.uniform(0, 1))
        server.start()


def run(folder: Path, duration_s: float, seed: int, say: Callable[[str], object] = print) -> int:
    """Do harm for `duration_s`; 0 if every request was answered in the end and the audit is clean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "LONGEST_PAUSE_S", 1.0)
        with Stack(folder, free_port(), SETTINGS, replicas=2, say=lambda _: None) as stack, Api(stack.url) as api:
            chaos = Chaos(stack, random.Random(seed))
            with Load(stack.url, CLIENTS, seed) as load:
                wait_for(lambda: load.counted["paid"], UP_S, "the load to run")
                time.sleep(SETTLED_S)
                chaos.run(duration_s)
                healing = time.monotonic()
                wait_for(stack.is_ready, UP_S, "everything to be up again")
            wait_until_quiet(stack)
            recovered_s = time.monotonic() - healing
            assert api.is_ready()
            audit = nameko_hw(stack, "audit")
            report(say, seed, duration_s, chaos, load, recovered_s, duplicates(stack))
            say(audit.stdout or audit.stderr)
            for failure in load.failures:
                say(f"NOT ANSWERED  {failure}")
            return 1 if load.failures or audit.returncode else 0


def report(say: Callable[[str], object], seed: int, duration_s: float, chaos: Chaos, load: Load, recovered_s: float,
           dropped: int) -> None:
    """Say what was done, and what became of it."""
    say(f"\n{duration_s:g} s of faults, seed {seed}")
    for what, count in sorted(chaos.done.items()):
        say(f"  {what:<28}{count:>8}")
    say("requests")
    for what, count in sorted(load.counted.items()):
        say(f"  {what:<28}{count:>8}")
    say(f"  {'slowest answer, s':<28}{load.slowest_s:>8.1f}")
    say(f"  {'duplicate events dropped':<28}{dropped:>8}")
    say(f"  {'time to recover, s':<28}{recovered_s:>8.1f}\n")


def duplicates(stack: Stack) -> int:
    """How many events the inbox has dropped since its processes started."""
    count = 0.0
    for port in stack.ports["notifications"]:
        with Api(f"http://127.0.0.1:{port}") as direct:
            count += sum(float(line.split()[-1]) for line in direct.get("/metrics").text.splitlines()
                         if line.startswith("nameko_hw_events_handled_total") and 'outcome="duplicate"' in line)
    return int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=60, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(Path(folder), arguments.duration, arguments.seed))


if __name__ == "__main__":
    main()
