"""The scratch folder of a test run, and the end of all that the run has started, whatever ends the run itself.

The folder is removed at the end. What servers logged is kept in .run/test-logs where a test failed; `--basetemp=...`
keeps everything.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from services.local.stack import ROOT
from tests.reaper import MARK

PREFIX = "nameko-hw-tests-"
KEPT_LOGS = ROOT / ".run" / "test-logs"
KEPT_BYTES = 200_000  # of the end of each log
END_S = 60

RUN = pytest.StashKey["Run"]()


class Run:
    """A run of pytest: its folder, and the reaper beside it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        os.environ[MARK] = str(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # The reaper holds the lock, and reads what we never write: its input ends with us.
            self.reaper = subprocess.Popen(
                [sys.executable, "-m", "tests.reaper", str(self.folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != MARK},
            )

    def end(self) -> None:
        """Wait until nothing is left of this run."""
        assert self.reaper.stdin is not None
        self.reaper.stdin.close()
        self.reaper.wait(END_S)
        del os.environ[MARK]

    def keep_logs(self) -> int:
        """Copy the end of each log to where it can be found; say how many there are."""
        shutil.rmtree(KEPT_LOGS, ignore_errors=True)
        files = [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]
        logs = sorted(file for file in files if file.suffix == ".log")
        for log in logs:
            kept = KEPT_LOGS / log.relative_to(self.folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), log.open("rb") as whole:  # its server may end now, and its folder
                whole.seek(max(0, log.stat().st_size - KEPT_BYTES))
                kept.write_bytes(whole.read())
        return len(logs)


def remove_leftovers() -> None:
    """Remove the folders of runs that ended together with their reapers, as when a machine goes down."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # in use, or of another user


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of xdist, which gives it a folder inside that of the whole run
        return
    remove_leftovers()
    run = config.stash[RUN] = Run()
    if config.option.basetemp is None:
        config.option.basetemp = str(run.folder / "t")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = terminalreporter.config.stash.get(RUN, None)
    if run and terminalreporter.stats.keys() & {"failed", "error"} and run.keep_logs():
        terminalreporter.write_line(f"The end of each log of this run is kept in {KEPT_LOGS.relative_to(ROOT)}/")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run:
        run.end()
