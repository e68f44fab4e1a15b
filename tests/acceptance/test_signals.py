"""A run of the tests leaves no process and no folder behind, whatever signal ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from services.local.net import wait_for
from services.local.stack import ROOT
from tests.reaper import processes_of
from tests.scratch import PREFIX

START_S = 120
END_S = 120

#: A test that starts one of each kind of server, tells where its scratch folder is, and never ends.
ENDLESS = """
import subprocess, threading
from pathlib import Path
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from tests.conftest import Embedded

def test_endless(tmp_path):
    (tmp_path / "embedded").mkdir()
    with Postgres(tmp_path / "postgres"), RabbitMQ(tmp_path / "rabbitmq"), Embedded(tmp_path / "embedded"):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path({told!r}).write_text(str(tmp_path))
        threading.Event().wait()
"""


@contextmanager
def endless(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A run of that test by a shell, as make does; once all servers are up, gives the shell and the run's folder."""
    told = folder / "told"
    (folder / "test_endless.py").write_text(ENDLESS.format(told=str(told)))
    pytest_ = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "-p",
        "tests.scratch",
        "-c",
        str(ROOT / "setup.cfg"),
        "--rootdir",
        str(ROOT),
        str(folder / "test_endless.py"),
    ]
    with (folder / "output.log").open("w") as output:
        shell = subprocess.Popen(
            # a run that is started in the background of a script ignores SIGINT, and what it starts would do so too
            ["env", "--default-signal=INT", "sh", "-c", '"$@"; exit', "sh", *pytest_],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_for(lambda: told.exists() and told.read_text(), START_S, f"the servers: {output.name}")
        scratch = Path(told.read_text())
        run = next(parent for parent in scratch.parents if parent.name.startswith(PREFIX))
        assert len(processes_of(str(run))) > 8
        yield shell, run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def nothing_is_left(run: Path) -> None:
    wait_for(lambda: not processes_of(str(run)), END_S, "the processes to end")
    wait_for(lambda: not run.exists(), END_S, "the folder to be removed")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_nothing_is_left_after_a_signal_to_all(tmp_path: Path, number: signal.Signals):
    with endless(tmp_path) as (shell, run):
        os.killpg(shell.pid, number)
        nothing_is_left(run)


def test_nothing_is_left_after_pytest_alone_was_killed(tmp_path: Path):
    with endless(tmp_path) as (shell, run):
        [pytest_pid] = map(int, Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split())
        os.kill(pytest_pid, signal.SIGKILL)
        nothing_is_left(run)
