"""The command of `make bench`: measure, and write the tables and the plot."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import backlog, growth, limits, machine, memory, peers, replicas, report, traces
from bench.contenders import Contender, Ours, Servers, running
from bench.load import ensure_wrk, in_turns
from services.local.stack import ROOT
from services.ops.errors import CommandError

PARTS = ("compare", "limits", "growth", "accounts", "backlog", "replicas", "traces", "memory")
SCRATCH = ROOT / ".run" / "bench"  # on the disk of the checkout, as /tmp may be none


def main() -> None:
    """Measure, and exit 1 with one line on an error that the user can mend."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.part == "report":
            report.write(json.loads((arguments.out / "results.json").read_text()), arguments.out)
        else:
            measure_all(arguments)
    except (CommandError, FileNotFoundError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    one = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    one.add_argument(
        "part",
        nargs="?",
        default="all",
        choices=[*PARTS, "all", "report"],
        help="what to measure (default: all); `report` writes tables and plot of results.json anew",
    )
    one.add_argument("--pairs", type=positive, default=5, help="runs of each contender (default: 5)")
    one.add_argument("--seconds", type=positive, default=6, help="of each run (default: 6)")
    one.add_argument("--clients", type=positive, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    one.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        default=[10**6],
        help="of each table, for growth; several are measured in turns (default: 1000000)",
    )
    one.add_argument(
        "--orders",
        type=positive,
        nargs="+",
        default=[1000, 10_000, 20_000],
        help="after which memory is read (default: 1000 10000 20000)",
    )
    one.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="default: bench/results")
    return one


def positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def measure_all(arguments: argparse.Namespace) -> None:
    """Measure the parts one after the other, and write each as soon as it is measured."""
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    ensure_wrk()
    present = peers.installed() if "compare" in parts else []
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    try:
        described = machine.describe(folder / "machine") | peers.versions()
        results = results_so_far(arguments.out / "results.json", described)
        for part in parts:
            print(f"== {part}", flush=True)
            started = time.monotonic()
            results[part] = measure(part, folder / part, arguments, present)
            report.write({name: results[name] for name in ("machine", *PARTS) if name in results}, arguments.out)
            print(f"== {part}: {time.monotonic() - started:.0f} s", flush=True)
    except BaseException:
        print(f"the logs are in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    print((arguments.out / "results.md").read_text())
    print(f"Written to {arguments.out}")


def results_so_far(file: Path, described: dict[str, str]) -> dict[str, Any]:
    """Return what was measured before on this machine, to be replaced part by part."""
    before: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return before if before.get("machine") == described else {"machine": described}


def measure(
    part: str, folder: Path, arguments: argparse.Namespace, present: Sequence[type[peers.Peer]]
) -> dict[str, Any]:
    clients, pairs, seconds = arguments.clients, arguments.pairs, arguments.seconds
    some = sorted(clients)[len(clients) // 2]
    match part:
        case "compare":
            return compare(folder, present, clients, pairs, seconds)
        case "limits":
            return limits.measure(folder, clients, seconds)
        case "growth":
            return growth.measure(folder, some, pairs, seconds, arguments.rows)
        case "accounts":
            return growth.accounts(folder, some, pairs, seconds)
        case "backlog":
            return backlog.measure(folder, some, seconds)
        case "replicas":
            return replicas.measure(folder, [number for number in clients if number > 1] or clients, pairs, seconds)
        case "traces":
            return traces.measure(folder, [some], pairs, seconds)
        case "memory":
            return memory.measure(folder, seconds, sorted(arguments.orders))
    raise ValueError(part)


def compare(
    folder: Path, present: Sequence[type[peers.Peer]], clients: list[int], pairs: int, seconds: float
) -> dict[str, Any]:
    """Load us and the peers in turns, on the same servers."""
    with Servers(folder) as servers:
        contenders: list[Contender] = [Ours(servers), *(peer(servers) for peer in present)]
        with running(*contenders) as users:
            return {"runs": [vars(run) for run in in_turns(contenders, users, clients, pairs, seconds)]}


if __name__ == "__main__":
    main()
