"""Measure one process of each service and the system on this machine; compute larger ones; write docs/scale.md.

python -m bench.scale            # measure everything, for about four minutes
python -m bench.scale capacity   # one part: capacity, system, or hot
python -m bench.scale report     # compute, and write the page and its plots, from what was measured
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench import capacity, machine, scale_report, sizing
from bench.contenders import Ours, Servers, running
from bench.load import ensure_wrk, in_turns, users_in_turns
from services.local.stack import ROOT
from services.ops.errors import CommandError

RESULTS = ROOT / "bench" / "results" / "scale.json"
SCRATCH = ROOT / ".run" / "bench"
PARTS = ("capacity", "system", "hot")
CAPACITY_CLIENTS, CLIENTS, HOT_CLIENTS = (1, 16, 64, 256), (1, 16, 64), 16
MANY, HOT = "200 accounts", "1 account"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS, "report"])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--seconds", type=float, default=5, help="of each run (default: 5)")
    arguments = parser.parse_args()
    try:
        ensure_wrk()
        results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if arguments.part != "report":
            measure(
                results, PARTS if arguments.part == "all" else (arguments.part,), arguments.pairs, arguments.seconds
            )
        if "capacity" in results:
            results["computed"] = sizing.computed(results["capacity"], CLIENTS, results["machine"]["cores"])
            save(results)
        scale_report.write(results)
    except (CommandError, FileNotFoundError) as error:
        sys.exit(f"scale: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def measure(results: dict[str, Any], parts: Sequence[str], pairs: int, seconds: float) -> None:
    """Measure the parts, and keep each as soon as it is measured."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    try:
        results["machine"] = {
            "described": machine.describe(folder / "machine"),
            "cores": len(os.sched_getaffinity(0)),
        }
        for part in parts:
            print(f"== {part}", flush=True)
            busy, own, started = busy_s(), own_s(), time.monotonic()
            results[part] = measure_part(part, folder / part, pairs, seconds)
            others_s = busy_s() - busy - (own_s() - own)
            results[part]["others"] = max(others_s, 0.0) / (time.monotonic() - started)
            save(results)
    except BaseException:
        print(f"the logs are in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def busy_s() -> float:
    """Return the seconds of CPU that all programs of this machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def own_s() -> float:
    """Return the seconds of CPU that this program and what it has started, and ended, have used."""
    return sum(os.times()[:4])


def measure_part(part: str, folder: Path, pairs: int, seconds: float) -> dict[str, Any]:
    match part:
        case "capacity":
            return capacity.measure(folder, CAPACITY_CLIENTS, seconds)
        case "system":
            return system(folder, pairs, seconds)
        case "hot":
            return hot(folder, pairs, seconds)
    raise ValueError(part)


def system(folder: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """Load the whole system, one process of each service: what the simulation has to predict."""
    with Servers(folder) as servers:
        ours = Ours(servers)
        with running(ours) as users:
            return {"runs": [vars(run) for run in in_turns([ours], users, CLIENTS, pairs, seconds)]}


def hot(folder: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """Place all orders for one account, beside orders for 200, with one and with two processes of each service."""
    runs = []
    for replicas in (1, 2):
        with Servers(folder / str(replicas)) as servers:
            ours = Ours(servers, replicas=replicas, by_gateway=True)
            with running(ours) as users:
                both = {MANY: users[ours.name], HOT: users[ours.name][:1]}
                found = users_in_turns(ours, both, [HOT_CLIENTS], pairs, seconds)
                runs += [vars(run) | {"replicas": replicas} for run in found]
    return {"runs": runs}


def save(results: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
