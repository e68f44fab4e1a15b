"""Ends every process of a test run once the run is over, killed or not, and removes its folder.

Run by tests/scratch.py as `python -m tests.reaper FOLDER`, in a session of its own, which no signal to the run reaches.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from services.local.net import POLL_S

MARK = "NAMEKO_HW_TESTS"  # in the environment of all that belongs to a run; holds its folder
GRACE_S = 10.0  # servers whose parent died stop by themselves, and Erlang's port programs a moment after their node
GIVE_UP_S = 30.0


def belongs(process: psutil.Process, folder: str) -> bool:
    """Whether the run in `folder` has started a process; some servers write over their environment."""
    with suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARK) == folder or process.cwd().startswith(folder):
            return True
        return any(folder in word for word in process.cmdline())
    return False


def processes_of(folder: str) -> list[psutil.Process]:
    """The processes of a run, other than its reaper."""
    return [one for one in psutil.process_iter() if one.pid != psutil.Process().pid and belongs(one, folder)]


def reap(folder: str) -> None:
    began = time.monotonic()
    while (left := processes_of(folder)) and (age_s := time.monotonic() - began) < GIVE_UP_S:
        if age_s > GRACE_S:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        time.sleep(POLL_S)
    for inner, _, names in os.walk(folder):
        if "postmaster.pid" in names:
            forget_shared_memory(Path(inner, "postmaster.pid"))
    shutil.rmtree(folder, ignore_errors=True)


def forget_shared_memory(pid_file: Path) -> None:
    """Remove the segment by which a killed PostgreSQL guards its data; line 7 of its pid file names it."""
    with suppress(OSError, IndexError):
        subprocess.run(["ipcrm", "--shmem-id", pid_file.read_text().splitlines()[6].split()[1]], capture_output=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    reap(str(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
