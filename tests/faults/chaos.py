"""Random faults under load: `make faults DURATION=60 SEED=1 STYLE=broker`.

Clients with and without an Idempotency-Key keep the system busy, while services, the broker and the databases are
killed and frozen, connections are cut, replies are lost, databases turn read-only, accounts are locked, clocks jump and
messages come twice; half of it while something else makes work wait. At the end everything is up again, the audit must
be clean, what clients were promised must hold, and no answer may have been a 500.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from services.local import supervisor
from services.local.net import wait_for
from services.shop import Style
from tests.books import broken_promises, one, wait_until_quiet
from tests.client import Api
from tests.commands import nameko_hw
from tests.faults.harm import LIBFAKETIME, FakeTimeStack, Harm
from tests.load import Load

CLIENTS, KEYLESS = 3, 3
UP_S = 90
PAUSE_S = (0.1, 0.8)
PROVOKED_S = (0.5, 1.5)
SETTLED_S = 3.0  # before the first fault: a broker that dies while its queues are being declared may forget them

SETTINGS = {
    "RPC_TIMEOUT_S": "1",
    "REQUEST_TIMEOUT_S": "3",
    "DB_TIMEOUT_S": "1.5",
    "PUBLISH_TIMEOUT_S": "2",
    "OUTBOX_LEASE_S": "3",
    "RECOVERY_AFTER_S": "4",
    "RECOVERY_INTERVAL_S": "1",
    "DRAIN_TIMEOUT_S": "4",
    "AMQP_HEARTBEAT_S": "5",
    "EVENT_RETRY_PAUSES_S": "[0.5, 1, 1, 2, 2, 4, 4, 8, 8]",
    "ACCOUNT_WAIT_S": "60",  # longer than all this can hold up the event of a user
}

OLD = "created_at < now() - interval '0.5 s'"  # younger ones are just on their way
OLDER = "created_at < now() - interval '2.5 s'"  # the relay looks for confirms once a second
NOTHING = "nothing"
#: Work that waits: in which database, and how much of it.
WAITING = {
    "orders pending": ("orders", f"select count(*) from orders where status = 'pending' and {OLD}"),
    "users pending": ("users", f"select count(*) from users where status = 'pending' and {OLD}"),
    "orders' outbox": ("orders", f"select count(*) from outbox where published_at is null and {OLDER}"),
    "users' outbox": ("users", f"select count(*) from outbox where published_at is null and {OLDER}"),
    "billing's outbox": ("billing", f"select count(*) from outbox where published_at is null and {OLDER}"),
    "inbox": ("notifications", "select count(*) from inbox where next_attempt_at is not null"),
}
TOLD = "select count(*) from orders where status = 'paid' or reason = 'insufficient_funds'"
HEARD = "select count(*) from letters where event_id is not null"


class Chaos:
    """Does harm to a running stack, one fault after the other, every second one while work is made to wait."""

    def __init__(self, stack: FakeTimeStack, dice: random.Random) -> None:
        self.stack = stack
        self.dice = dice
        self.harm = Harm(stack, dice)
        self.done: dict[str, Counter[str]] = {}

    def run(self, duration_s: float) -> None:
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            provoking = self.dice.choice(self.harm.provoking) if self.dice.random() < 0.5 else None
            with provoking() if provoking else nullcontext():
                if provoking:
                    time.sleep(self.dice.uniform(*PROVOKED_S))
                self.do_one()
            time.sleep(self.dice.uniform(*PAUSE_S))

    def do_one(self) -> None:
        faults: dict[Callable, int] = self.harm.at_once | self.harm.lasting
        [fault] = self.dice.choices(list(faults), list(faults.values()))
        self.done.setdefault(fault.__name__.replace("_", " "), Counter()).update(["times", *waiting(self.stack)])
        if fault in self.harm.at_once:
            fault()
        else:
            with fault():
                self.harm.pause()


def waiting(stack: FakeTimeStack) -> list[str]:
    """Which kinds of work wait just now."""
    found = []
    for kind, (service, query) in WAITING.items():
        with suppress(SQLAlchemyError):
            if one(stack, service, query):
                found.append(kind)
    with suppress(SQLAlchemyError):
        if one(stack, "orders", TOLD) > one(stack, "notifications", HEARD):
            found.append("events held")
    return found or [NOTHING]


def run(
    folder: Path, duration_s: float, seed: int, style: Style | None = None, say: Callable[[str], object] = print
) -> int:
    """Do harm for `duration_s`; 0 if every request was answered in the end and the audit is clean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "LONGEST_PAUSE_S", 1.0)
        with (
            FakeTimeStack(folder, SETTINGS, replicas=2, say=lambda _: None, style=style) as stack,
            Api(stack.url) as api,
        ):
            chaos = Chaos(stack, random.Random(seed))
            with Load(stack.url, CLIENTS, seed, keyless=KEYLESS) as load:
                wait_for(lambda: load.counted["paid"], UP_S, "the load to run")
                time.sleep(SETTLED_S)
                chaos.run(duration_s)
                healing = time.monotonic()
                wait_for(stack.is_ready, UP_S, "everything to be up again")
            report(say, seed, duration_s, chaos, load)
            try:
                wait_until_quiet(stack)
            except TimeoutError as error:
                say(f"NOT QUIET  {error}: {waiting(stack)}")
            assert api.is_ready()
            say(f"  {'time to recover, s':<36}{time.monotonic() - healing:>8.1f}")
            say(f"  {'duplicate events dropped':<36}{duplicates(stack):>8}\n")
            audit = nameko_hw(stack, "audit")
            say(audit.stdout or audit.stderr)
            wrong = [f"FAILED  {failure}" for failure in load.failures]
            wrong += [f"BROKEN PROMISE  {promise}" for promise in broken_promises(stack, load.sent)]
            for line in wrong:
                say(line)
            return 1 if wrong or audit.returncode else 0


def report(say: Callable[[str], object], seed: int, duration_s: float, chaos: Chaos, load: Load) -> None:
    """Say what was done, which work waited then, and what clients were answered."""
    columns = ["times", *WAITING, "events held", NOTHING]
    say(f"\n{duration_s:g} s of faults, seed {seed}: how often each, and what waited just before it")
    if not LIBFAKETIME:
        say("no clock was wrong: there is no libfaketime here")
    say(f"  {'':<30}" + "".join(f"{column:>18}" for column in columns))
    for fault, counts in sorted(chaos.done.items()):
        say(f"  {fault:<30}" + "".join(f"{counts[column] or '':>18}" for column in columns))
    say("at the proxies")
    harmed: Counter[str] = Counter()
    stack = chaos.stack
    for what, proxies in {"database": stack.databases, "broker": stack.brokers, "call": stack.calls}.items():
        for proxy in proxies.values():  # type: ignore[attr-defined]
            harmed.update({f"{fault} ({what})": count for fault, count in proxy.done.items()})
    for what, count in sorted(harmed.items()):
        say(f"  {what:<46}{count:>8}")
    say("requests")
    for what, count in sorted(load.counted.items()):
        say(f"  {what:<36}{count:>8}")
    say(f"  {'slowest answer, s':<36}{load.slowest_s:>8.1f}")


def duplicates(stack: FakeTimeStack) -> int:
    """How many events the inbox has dropped since its processes started."""
    count = 0.0
    for port in stack.ports["notifications"]:
        with Api(f"http://127.0.0.1:{port}") as direct:
            count += sum(
                float(line.split()[-1])
                for line in direct.get("/metrics").text.splitlines()
                if line.startswith("nameko_hw_events_handled_total") and 'outcome="duplicate"' in line
            )
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
