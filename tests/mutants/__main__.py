"""Makes harmful changes to a copy of the code, one at a time, and says which of them the tests notice.

    python -m tests.mutants [NAME...]

(DeMillo, Lipton and Sayward, "Hints on Test Data Selection", 1978: mutation testing.) It fails if a change goes
unnoticed, if the code no longer holds what a change replaces, or if the tests fail without any change.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from services.local.stack import ROOT
from tests.mutants import calls, letters, limits, money, page, requests, rounds, servers, tokens
from tests.mutants.change import Change

PARTS = (money, rounds, letters, requests, calls, page, servers, tokens, limits)
CHANGES = [change for part in PARTS for change in part.CHANGES]
SERVICES, TESTS = ROOT / "services", ROOT / "tests"
NOT_COPIED = (".*", "node_modules", "build", "__pycache__", "*.egg-info")
TIME_LIMIT_S = 120
END_S = 60  # what tests have started ends by itself
PASSED, FAILED = 0, 1  # exit codes of pytest


def places(change: Change) -> int:
    """How often the code holds what the change replaces."""
    return (SERVICES / change.file).read_text().count(change.old)


def noticed(change: Change, copy: Path) -> int | None:
    """Make a change in the copy and run its tests; give their exit code, None if they did not end in time."""
    file = copy / "services" / change.file
    good = file.read_text()
    file.write_text(good.replace(change.old, change.new))
    try:
        return outcome(change.tests, copy, TIME_LIMIT_S)
    finally:
        file.write_text(good)


def outcome(tests: Iterable[str], copy: Path, limit_s: float) -> int | None:
    """Run tests in the copy; give pytest's exit code, None if they did not end in time."""
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        *(f"tests/{test}" for test in tests),
    ]
    with (copy / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(copy)},
        )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End tests that run for too long; what they have started ends with them (tests/reaper.py)."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                pass


def check(changes: list[Change], copy: Path) -> int:
    """Try all changes; give the number of those that are not as they should be."""
    tests = sorted({test for change in changes for test in change.tests})
    print(f"{len(tests)} selections of tests, without any change...", flush=True)
    if (code := outcome(tests, copy, TIME_LIMIT_S * len(changes))) != PASSED:
        print((copy / "output").read_text(errors="replace"))
        print(f"They fail without any change ({code}).")
        return len(changes)
    wrong = 0
    for change in changes:
        began = time.monotonic()
        code = noticed(change, copy) if places(change) == 1 else PASSED
        if places(change) != 1:
            said = "STALE"
        elif code == PASSED:
            said = "MISSED"
        else:  # a change that makes the tests hang is noticed as well, if late
            said = {FAILED: "NOTICED", None: "NOTICED (time limit)"}.get(code, "BROKEN")
        wrong += not said.startswith("NOTICED")
        print(f"{said:<8} {time.monotonic() - began:5.1f} s  {change.name}: {change.harm}", flush=True)
    print(f"{len(changes) - wrong} of {len(changes)} harmful changes are noticed")
    return wrong


def main() -> None:
    names = [change.name for change in CHANGES]
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="see whether tests notice harm")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of changes; all if none are given")
    chosen = parser.parse_args().names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there is no change {unknown[0]}")
    with tempfile.TemporaryDirectory(prefix="nameko-hw-mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        sys.exit(bool(check([change for change in CHANGES if not chosen or change.name in chosen], copy)))


if __name__ == "__main__":
    main()
