"""Whether an order costs more when there are millions of others, or when it is for one of very many accounts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.contenders import USERS, Ours, Servers, running
from bench.filling import fill, open_accounts
from bench.load import in_turns, users_in_turns

EMPTY = "empty"
ACCOUNTS = 100_000
FEW, MANY = f"{USERS} accounts", f"{ACCOUNTS:,} accounts"


def full(rows: int) -> str:
    """Return the name of an installation that has so many rows."""
    return f"{rows:,} rows"


def measure(folder: Path, clients: int, pairs: int, seconds: float, rows: Sequence[int]) -> dict[str, Any]:
    """Load an empty and the full installations in turns, each with servers of its own."""
    with ExitStack() as stack:
        there = {EMPTY: 0} | {full(count): count for count in sorted(rows)}
        servers = {name: stack.enter_context(Servers(folder / name.replace(",", "").split()[0])) for name in there}
        users = {}
        for name, count in there.items():
            users[name] = filled(servers[name], name, count)
        contenders = [Ours(servers[name], name) for name in there]
        with running(*contenders):
            runs = in_turns(contenders, users, [clients], pairs, seconds)
    return {"rows": sorted(rows), "runs": [vars(run) for run in runs]}


def filled(servers: Servers, name: str, rows: int) -> list[str]:
    """Create users by the API, and fill the databases while no service runs; return the users."""
    ours = Ours(servers, name)
    with running(ours) as users:
        pass
    if rows:
        fill(servers, users[name], rows)
    return users[name]


def accounts(folder: Path, clients: int, pairs: int, seconds: float) -> dict[str, Any]:
    """Place orders for few accounts and for many, at random, in turns, at the same installation."""
    with Servers(folder) as servers:
        ours = Ours(servers)
        with running(ours) as users:
            both = {FEW: users[ours.name], MANY: open_accounts(servers, ACCOUNTS)}
            runs = users_in_turns(ours, both, [clients], pairs, seconds)
    return {"runs": [vars(run) for run in runs]}
