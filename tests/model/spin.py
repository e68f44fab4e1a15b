"""Check model/order.pml with SPIN.

`make model` goes through all states; `make model BROKEN=inbox` tells what goes wrong without that safeguard.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from services.local.needs import OF, NotInstalled, ensure

MODEL = Path(__file__).parents[2] / "model" / "order.pml"
#: What to look for a counterexample in, the smallest first: clients, faults.
SIZES = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


class Checked(NamedTuple):
    """The outcome of a search through all states."""

    states: int
    memory_mb: int
    seconds: float
    unreached: list[str]
    cycle: bool
    violation: str | None
    story: list[str]


def ensure_spin() -> None:
    """Install SPIN where it is missing, if we are root or sudo lets us; NotInstalled, which says what to do."""
    ensure(OF["model"])


def safeguards() -> list[str]:
    """Return the names of the safeguards that can be taken out of the model."""
    text = MODEL.read_text()
    listed = text[text.index("The safeguards") : text.index("#ifndef WITHOUT")]
    return re.findall(r"^#define (\w+) +\d+ /\*", listed, re.M)


def check(clients: int, faults: int, without: str = "", shortest: bool = False, cycles: bool = False) -> Checked:
    """Go through all states; stop at a violation, the nearest one if `shortest`.

    `cycles` looks for runs without an end instead: nothing in the model may go on for ever.
    """
    settings = [f"-DCLIENTS={clients}", f"-DFAULTS={faults}", f"-DWITHOUT={without or 0}"]
    kind = ["-DNP", "-DNOFAIR"] if cycles else ["-DSAFETY", *(["-DBFS"] if shortest else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MODEL.name).write_bytes(MODEL.read_bytes())
        run(folder, "spin", *settings, "-a", MODEL.name)
        run(folder, "gcc", "-w", "-O0" if shortest or cycles else "-O1", "-DCOLLAPSE", *kind, "-o", "pan", "pan.c")
        started = time.monotonic()
        report = run(folder, "./pan", "-m100000", f"-w{18 + 3 * clients}", *(["-l"] if cycles else []))
        seconds = time.monotonic() - started
        violation: str | None = None
        story: list[str] = []
        if not cycles and (folder / f"{MODEL.name}.trail").exists():
            story, violation = read_replay(run(folder, "spin", "-T", "-t", *settings, MODEL.name))
    states, memory_mb = find(r"(\d+) states, stored", report), find(r"([\d.]+)\s+total actual memory", report)
    unreached = re.findall(r'^\t\S+, state \d+, "(.*)"$', report, re.M)
    return Checked(
        int(states),
        round(float(memory_mb)),
        seconds,
        unreached,
        "pan:1: non-progress cycle" in report,
        violation,
        story,
    )


def run(folder: Path, *command: str) -> str:
    """Run a command; RuntimeError with what it printed if it fails."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0 and "spin" not in command[0]:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def find(pattern: str, report: str) -> str:
    """Return the first group; RuntimeError if SPIN has reported something else, or has not finished."""
    found = re.search(pattern, report)
    if not found or ("Search not completed" in report and "errors: 0" in report):
        raise RuntimeError(f"SPIN did not finish:\n{report[-2000:]}")
    return found[1]


def read_replay(replay: str) -> tuple[list[str], str]:
    """Return the steps of a counterexample as sentences, and the invariant that it violates, as the model words it."""
    failed = re.search(r"order\.pml:(\d+), Error: assertion violated", replay)
    if not failed:
        return [], "it comes to a halt before all is settled"
    line = MODEL.read_text().splitlines()[int(failed[1]) - 1]
    steps = [step.strip() for step in replay[: failed.start()].splitlines()]
    return [step for step in steps if step and not step.startswith("spin:")], find(r"/\* (.*?) \*/", line)


def counterexample(without: str) -> tuple[Checked, int, int]:
    """Find a shortest story that goes wrong without a safeguard, with as few clients and faults as it takes."""
    for clients, faults in SIZES:
        checked = check(clients, faults, without, shortest=True)
        if checked.violation:
            return checked, clients, faults
    raise RuntimeError(f"nothing goes wrong without {without}")


def main() -> int:
    """Check the whole model, or print a counterexample."""
    parser = argparse.ArgumentParser(prog="make model", description=__doc__)
    parser.add_argument(
        "--broken", type=str.upper, choices=["", *safeguards()], default="", help="the safeguard to take out"
    )
    parser.add_argument("--faults", type=int, default=2, help="how many faults may happen in a run")
    options = parser.parse_args()
    try:
        ensure_spin()
    except NotInstalled as error:
        sys.exit(str(error))
    if options.broken:
        checked, clients, faults = counterexample(options.broken)
        print(f"Without {options.broken}; {clients} client(s), {faults} fault(s); a shortest way to go wrong:\n")
    else:
        print(f"Two orders of one account, two replicas, {options.faults} faults. Some minutes...", flush=True)
        checked = check(2, options.faults)
        print(f"{checked.states:,} states in {checked.seconds:.0f} s and {checked.memory_mb} MB")
    for number, step in enumerate(checked.story, 1):
        print(f"{number:3}. {step}")
    print(f"\nVIOLATED: {checked.violation}" if checked.violation else "every invariant holds in all of them")
    return int(bool(checked.violation) != bool(options.broken))


if __name__ == "__main__":
    sys.exit(main())
