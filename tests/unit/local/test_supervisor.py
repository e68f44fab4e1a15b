"""The supervisor, with small Python programs for children; nothing it started may outlive it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.local import supervisor as module
from services.local.net import wait_for
from services.local.supervisor import Supervisor, dies_with_parent

SLACK_S = 30
ROOT = Path(__file__).parents[3]

SLEEP = "import time; time.sleep(600)"
DIE = "raise SystemExit(3)"
IGNORE_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
WITH_GRANDCHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *sys.argv[1:]])
print("has a child", flush=True)
time.sleep(600)
"""
SUPERVISE_TWO = f"""
import sys
from services.local.supervisor import Supervisor
supervisor = Supervisor(grace_s=10)
for name in ("first", "second"):
    supervisor.add(name, [sys.executable, "-c", {SLEEP!r}, sys.argv[1], name])
supervisor.run_forever()
"""

needs_death_signal = pytest.mark.skipif(not dies_with_parent("TERM"), reason="the system has no death signal")


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def processes_with(text: object) -> list[int]:
    """The pids of the processes with `text` in their command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(text) in " ".join(process.info["cmdline"] or [])
    ]


def running_pid(supervisor: Supervisor, name: str, other_than: int | None = None) -> int:
    """Wait until the child runs under another pid than the one given, and return it."""
    return wait_for(lambda: (pid := supervisor.pid(name)) != other_than and pid, SLACK_S, f"a new {name}") or 0


@pytest.fixture
def lines() -> list[str]:
    """What the supervisor said."""
    return []


@pytest.fixture
def supervisor(lines: list[str], tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(say=lines.append, grace_s=SLACK_S)
    yield supervisor
    supervisor.stop()
    assert processes_with(tmp_path) == []


def pauses(lines: list[str]) -> list[float]:
    return [float(pause) for line in lines for pause in re.findall(r"starts again in (\S+) s", line)]


def test_a_child_that_dies_starts_again_after_a_growing_pause(supervisor, lines):
    supervisor.add("orders", python(DIE))
    began = time.monotonic()
    supervisor.start()
    wait_for(lambda: len(pauses(lines)) >= 4, SLACK_S, "four deaths")
    assert time.monotonic() - began >= 0.2 + 0.4 + 0.8
    assert pauses(lines)[:4] == [0.2, 0.4, 0.8, 1.6]
    assert lines[1] == "orders: ended with code 3, starts again in 0.2 s"


def test_the_pause_has_an_upper_bound(supervisor, lines, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.3)
    supervisor.add("orders", python(DIE))
    supervisor.start()
    wait_for(lambda: len(pauses(lines)) >= 4, SLACK_S, "four deaths")
    assert pauses(lines)[:4] == [0.2, 0.3, 0.3, 0.3]


def test_the_pause_is_short_again_for_a_child_that_lived_long_enough(supervisor, lines, monkeypatch):
    monkeypatch.setattr(module, "STEADY_S", 0.0)
    supervisor.add("orders", python(DIE))
    supervisor.start()
    wait_for(lambda: len(pauses(lines)) >= 3, SLACK_S, "three deaths")
    assert pauses(lines)[:3] == [0.2, 0.2, 0.2]


def test_a_killed_child_gets_a_new_process_and_the_others_keep_theirs(supervisor, lines, tmp_path):
    supervisor.add("orders", python(SLEEP, tmp_path))
    supervisor.add("billing", python(SLEEP, tmp_path))
    supervisor.start()
    orders, billing = running_pid(supervisor, "orders"), supervisor.pid("billing")
    os.kill(orders, signal.SIGKILL)
    assert running_pid(supervisor, "orders", other_than=orders)
    assert supervisor.pid("billing") == billing
    assert "orders: ended by signal 9 (Killed), starts again in 0.2 s" in lines


def test_a_child_is_what_its_argv_says_and_leads_its_session(supervisor, tmp_path):
    argv = python(SLEEP, tmp_path)
    supervisor.add("orders", argv)
    supervisor.start()
    child = psutil.Process(running_pid(supervisor, "orders"))
    wait_for(lambda: child.cmdline() == argv, SLACK_S, "the program itself")
    assert os.getsid(child.pid) == child.pid


def test_a_child_gets_its_environment_folder_and_log(supervisor, tmp_path, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    log = tmp_path / "logs" / "orders.log"
    show = "import os; print(os.environ['OURS'], os.environ['ITS'], os.getcwd(), flush=True);" + SLEEP
    supervisor.add("orders", python(show, tmp_path), env={"ITS": "2"}, cwd=tmp_path, log=log)
    supervisor.start()
    wait_for(lambda: log.exists() and log.read_text() == f"1 2 {tmp_path.resolve()}\n", SLACK_S, "the log")


def test_restart_gives_a_new_process_without_a_pause(supervisor, lines, tmp_path):
    supervisor.add("orders", python(SLEEP, tmp_path))
    supervisor.start()
    before = supervisor.pid("orders")
    supervisor.restart("orders")
    assert supervisor.pid("orders") not in (None, before)
    assert not psutil.pid_exists(before)
    assert pauses(lines) == []


def test_restart_of_a_deaf_child_kills_it_and_does_not_hold_up_the_others(lines, tmp_path):
    supervisor = Supervisor(say=lines.append, grace_s=1.5)
    log = tmp_path / "log"
    supervisor.add("deaf", python(IGNORE_SIGTERM, tmp_path), log=log)
    supervisor.add("mortal", python(DIE))
    supervisor.start()
    try:
        wait_for(lambda: "deaf" in log.read_text(), SLACK_S, "the child to be deaf")
        deaths = len(pauses(lines))
        supervisor.restart("deaf")
        restarted = next(at for at, line in enumerate(lines) if line.startswith("deaf: ended by signal 9"))
        assert len(pauses(lines[:restarted])) > deaths
    finally:
        supervisor.stop()
    assert processes_with(tmp_path) == []


def test_stop_ends_all_even_the_deaf_the_frozen_and_the_grandchildren(lines, tmp_path):
    supervisor = Supervisor(say=lines.append, grace_s=1)
    logs = {name: tmp_path / name for name in ("deaf", "parent")}
    supervisor.add("deaf", python(IGNORE_SIGTERM, tmp_path), log=logs["deaf"])
    supervisor.add("parent", python(WITH_GRANDCHILD, tmp_path), log=logs["parent"])
    supervisor.add("frozen", python(SLEEP, tmp_path))
    supervisor.start()
    wait_for(lambda: all(log.read_text() for log in logs.values()), SLACK_S, "the children")
    os.kill(running_pid(supervisor, "frozen"), signal.SIGSTOP)
    wait_for(lambda: len(processes_with(tmp_path)) >= 4, SLACK_S, "all four processes")
    supervisor.stop()
    wait_for(lambda: processes_with(tmp_path) == [], SLACK_S, "the end of all processes")
    assert supervisor.pid("parent") is None
    assert lines[-3:] == [
        "frozen: ended by signal 15 (Terminated)",
        "parent: ended by signal 15 (Terminated)",
        "deaf: ended by signal 9 (Killed)",
    ]


def test_a_stopped_supervisor_can_start_again(supervisor, tmp_path):
    supervisor.add("orders", python(SLEEP, tmp_path))
    supervisor.start()
    before = supervisor.pid("orders")
    supervisor.stop()
    supervisor.start()
    assert supervisor.pid("orders") not in (None, before)


def test_an_unknown_program_and_a_name_used_twice_are_refused(supervisor):
    with pytest.raises(FileNotFoundError, match="orders: no such program: no-such-program"):
        supervisor.add("orders", ["no-such-program"])
    supervisor.add("orders", python(SLEEP))
    with pytest.raises(ValueError, match="orders"):
        supervisor.add("orders", python(SLEEP))


def test_a_child_that_cannot_start_is_tried_again(supervisor, lines, tmp_path):
    supervisor.add("orders", python(SLEEP, tmp_path), cwd=tmp_path / "later")
    supervisor.start()
    wait_for(lambda: pauses(lines), SLACK_S, "the first attempt to fail")
    (tmp_path / "later").mkdir()
    assert running_pid(supervisor, "orders")


def test_a_listener_that_is_gone_costs_no_child(tmp_path):
    def closed_terminal(line: str) -> None:
        raise BrokenPipeError(line)

    supervisor = Supervisor(say=closed_terminal)
    supervisor.add("orders", python(SLEEP, tmp_path))
    supervisor.start()
    before = running_pid(supervisor, "orders")
    os.kill(before, signal.SIGKILL)
    assert running_pid(supervisor, "orders", other_than=before)
    supervisor.stop()


def names_of_running(folder: Path) -> set[str]:
    """The children that have become the programs they shall be, and so have asked for their death signal."""
    commands = [process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"])]
    return {command[-1] for command in commands if command[0] == sys.executable and command[-2:-1] == [str(folder)]}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor of two children in a process of its own, once both run."""
    with subprocess.Popen(python(SUPERVISE_TWO, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL) as program:
        try:
            wait_for(lambda: names_of_running(tmp_path) == {"first", "second"}, SLACK_S, "both children")
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_supervisor_and_all_its_children(program, tmp_path, number):
    program.send_signal(number)
    assert program.wait(SLACK_S) == 0
    assert processes_with(tmp_path) == []


@needs_death_signal
def test_children_die_with_a_killed_supervisor(program, tmp_path):
    program.kill()
    wait_for(lambda: processes_with(tmp_path) == [], SLACK_S, "the children to end")


def test_each_round_is_called_while_children_are_tended(tmp_path):
    supervisor = Supervisor(say=lambda line: None)
    supervisor.add("orders", python(SLEEP, tmp_path))
    first: list[int] = []

    def each_round() -> None:
        if not first:
            first.append(running_pid(supervisor, "orders"))
            os.kill(first[0], signal.SIGKILL)
            assert running_pid(supervisor, "orders", other_than=first[0])
            os.kill(os.getpid(), signal.SIGTERM)

    supervisor.run_forever(each_round)
    assert first and processes_with(tmp_path) == []


@pytest.mark.parametrize(
    "who",
    [
        "services.local.supervisor import Supervisor as it; say = it()._say",
        "services.local.stack import Stack as it; say = it(__import__('pathlib').Path('.'), 1).say",
        "services.scenario import Scenario as it; say = it('http://127.0.0.1').say",
    ],
)
def test_a_line_is_seen_at_once_in_a_file(tmp_path, who):
    said = tmp_path / "said"
    show = f"import time; from {who}; say('seen'); time.sleep(600)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with said.open("w") as output, subprocess.Popen(python(show), cwd=ROOT, stdout=output, env=buffered) as program:
        try:
            wait_for(lambda: said.read_text() == "seen\n", SLACK_S, "the line")
        finally:
            program.kill()
