"""The command of `make compare`: measure the three styles, and write the tables and plots of docs/comparison.md.

python -m bench.compare            # measure everything, for half an hour
python -m bench.compare report     # write the tables and plots of what was measured anew
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine, outages, styles, styles_report
from services.local.stack import ROOT
from services.ops.errors import CommandError

RESULTS = ROOT / "bench" / "results" / "styles.json"
SCRATCH = ROOT / ".run" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=["all", "speed", "outages", "report"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--rounds", type=int, default=3, help="of the three styles in turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=6, help="of each run (default: 6)")
    parser.add_argument("--down", type=float, default=20, help="seconds that a victim is away (default: 20)")
    arguments = parser.parse_args()
    try:
        if arguments.part != "report":
            measure(arguments)
        styles_report.write(json.loads(RESULTS.read_text()))
    except (CommandError, FileNotFoundError) as error:
        sys.exit(f"compare: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def measure(arguments: argparse.Namespace) -> None:
    """Measure the parts, and keep each as soon as it is measured."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    try:
        results["machine"] = machine.describe(folder / "machine")
        if arguments.part in ("all", "speed"):
            print("== speed", flush=True)
            results["speed"] = styles.measure(folder / "speed", arguments.clients, arguments.rounds, arguments.seconds)
            RESULTS.write_text(json.dumps(results, indent=1))
        if arguments.part in ("all", "outages"):
            print("== outages", flush=True)
            results["outages"] = outages.measure(folder / "outages", arguments.down)
            RESULTS.write_text(json.dumps(results, indent=1))
    except BaseException:
        print(f"the logs are in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
