"""Install packages and show how far it is: a line every ten seconds, the whole output in a file, its end on a failure.

Run before there is a virtual environment, so the standard library is all that it uses:

    python -m services.local.installing pip NAME      # requirements/NAME.txt, into the environment of this Python
    python -m services.local.installing npm FOLDER
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = ROOT / ".run" / "setup"
EVERY_S = 10
TAIL_LINES = 20
#: Only what is pinned: pip looks for nothing by itself, and does not have to, as the pins are complete.
PIP = (
    "-m pip install --disable-pip-version-check --progress-bar off --no-deps --no-build-isolation --use-pep517".split()
)


class Failed(RuntimeError):
    """An installer failed; the message carries the end of its output."""


def watched(
    what: str,
    argv: Sequence[str],
    log: Path,
    how_far: Callable[[str], str],
    env: Mapping[str, str] | None = None,
    verb: str = "Installing",
) -> None:
    """Run an installer of `what`, its output going to `log`; say every ten seconds what `how_far` makes of that.

    Raises Failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{verb} {what}...")
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while (code := poll(process, EVERY_S)) is None:
                say(f"{what}: {how_far(log.read_text(errors='replace'))}, {time.monotonic() - began:.0f} s")
        except BaseException:
            process.terminate()
            raise
    if code:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        raise Failed("\n".join([f"{what}: failed with code {code}; the end of {log}:", *lines]))
    say(f"{what}: done in {time.monotonic() - began:.0f} s")


def not_ours(error: PermissionError) -> str:
    """Say what to do about a file that may not be touched, as when root has run this here before."""
    return f"{error.filename}: {error.strerror}. If another user made it, remove it with sudo"


def say(line: str) -> None:
    print(line, flush=True)


def poll(process: "subprocess.Popen[bytes]", timeout_s: float) -> int | None:
    """The code with which a process ended; None if it still runs after `timeout_s` seconds."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def pip(name: str) -> None:
    """Install what requirements/NAME.txt pins, by its hashes; with `local`, this project too."""
    packages = Path(sysconfig.get_path("purelib"))
    before = len(list(packages.glob("*.dist-info")))

    def how_far(output: str) -> str:
        collected = re.search(r"^Installing collected packages: (.*)", output, re.M)
        if collected is None:
            return f"{len(re.findall('^Collecting ', output, re.M))} found"
        unpacked = len(list(packages.glob("*.dist-info"))) - before
        return f"{unpacked} of {len(collected[1].split(', '))} unpacked"

    if name == "local":
        watched("what builds packages", pip_install("requirements/build.txt"), LOGS / "pip-build.log", how_far)
    watched(f"Python's packages ({name})", pip_install(f"requirements/{name}.txt"), LOGS / f"pip-{name}.log", how_far)
    if name == "local":
        watched("nameko-hw", [sys.executable, *PIP, "--editable", "."], LOGS / "pip-nameko-hw.log", how_far)


def pip_install(pins: str, python: str = sys.executable) -> list[str]:
    """Return the command that installs what a file of pins holds, by its hashes, and nothing else."""
    return [python, *PIP, "--require-hashes", "--requirement", pins]


def npm(folder: str) -> None:
    """Install what a folder's package-lock.json says, without a browser and without telling anyone."""
    total = len(json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]) - 1

    def how_far(output: str) -> str:
        return f"{len(re.findall(r'http (?:fetch|cache).*[.]tgz', output))} of {total} fetched"

    watched(
        f"npm's packages ({folder})",
        ["npm", "--prefix", folder, "ci", "--no-audit", "--no-fund", "--loglevel=http"],
        LOGS / f"npm-{folder.replace('/', '-')}.log",
        how_far,
        env={"PUPPETEER_SKIP_DOWNLOAD": "1", "SCARF_ANALYTICS": "false"},
    )


def main() -> None:
    installer, name = sys.argv[1:]
    try:
        {"pip": pip, "npm": npm}[installer](name)
    except Failed as failed:
        sys.exit(str(failed))
    except PermissionError as error:
        sys.exit(not_ours(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
