"""Child processes: many under one supervisor, and the two functions that start and end a single one cleanly."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.local.net import POLL_S, wait_for

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_S = 10.0  # a child that lived this long starts again after the first pause
RESTART_S = 10.0

Process = subprocess.Popen[bytes]

flushed = functools.partial(print, flush=True)  # a line is seen at once, also in a file or a pipe


@dataclass
class Child:
    """One named program: how to start it, and how it is doing."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path | None
    log: Path | None
    process: Process | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    kill_at: float | None = None  # set while restart() waits for the process to end


class Supervisor:
    """Runs named programs, and starts each again when it dies, after a pause of 0.2 to 10 seconds.

    Each child leads a session of its own, so Ctrl-C in a terminal reaches the supervisor only.
    Where setpriv exists, the children are killed when the supervisor is: a child that just starts would not hear a
    gentler signal.
    """

    def __init__(self, say: Callable[[str], object] = flushed, grace_s: float = 20.0) -> None:
        """`say` takes a line for each start and death; `grace_s` seconds pass from SIGTERM to SIGKILL."""
        self._say = say
        self._grace_s = grace_s
        self._children: dict[str, Child] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._all_started = threading.Event()
        self._thread: threading.Thread | None = None

    def add(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> None:
        """Add a program; `env` is added to our own, and its output is appended to `log` (default: it goes to ours).

        Raises ValueError for a name that is taken, FileNotFoundError for an unknown program.
        """
        full_env = {**os.environ, **(env or {})}
        if name in self._children:
            raise ValueError(f"there is already a child named {name}")
        if shutil.which(argv[0], path=full_env.get("PATH")) is None:
            raise FileNotFoundError(f"{name}: no such program: {argv[0]}")
        with self._lock:
            self._children[name] = Child(name, list(argv), full_env, cwd, log)

    def start(self) -> None:
        """Start every child, and the thread that keeps them running."""
        if self._thread is not None:
            raise RuntimeError("the supervisor is already running")
        self._all_started.clear()
        atexit.register(self.stop)
        # One thread starts all children and outlives them, see dies_with_parent.
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()
        self._all_started.wait()

    def run_forever(self, each_round: Callable[[], object] = lambda: None) -> None:
        """Run until SIGINT or SIGTERM, then stop everything. Call it from the main thread.

        `each_round` is called about every 0.05 seconds; it may take long, as the thread of `start` looks after the
        children.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, lambda *_: self._stopping.set()) for sig in signals}
        try:
            if self._thread is None:
                self.start()
            while not self._stopping.wait(POLL_S):
                each_round()
        finally:
            self.stop()
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def stop(self) -> None:
        """Send SIGTERM to all children, the last added first, then SIGKILL once `grace_s` is over."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join()
            self._stopping.clear()
            atexit.unregister(self.stop)

    def names(self) -> list[str]:
        """Return the names of all children."""
        return list(self._children)

    def pid(self, name: str) -> int | None:
        """Return the process id of a child, or None while it is down."""
        process = self._children[name].process
        return process.pid if process is not None and process.returncode is None else None

    def starts_at(self, name: str) -> float:
        """Return when a child that is down is started again, by the monotonic clock."""
        return self._children[name].start_at

    def signal(self, name: str, number: signal.Signals) -> int | None:
        """Send a signal to a child and return its process id; None if it is down."""
        with self._lock:
            process = self._children[name].process
            if process is None or process.poll() is not None:
                return None
            process.send_signal(number)
            return process.pid

    def restart(self, name: str) -> None:
        """End a child as stop() does, start it again without a pause, and return once it runs.

        Raises TimeoutError when there is no new process within `grace_s` + 10 seconds.
        """
        child = self._children[name]
        with self._lock:
            old = self.pid(name)
            child.start_at, child.pause_s = 0.0, FIRST_PAUSE_S
            if child.process is not None:
                child.kill_at = time.monotonic() + self._grace_s
                _ask_to_end(child.process, signal.SIGTERM)
        wait_for(lambda: self.pid(name) not in (None, old), self._grace_s + RESTART_S, name)

    def kill(self, name: str, down_s: float) -> None:
        """Kill a child at once, and start it again after `down_s` seconds."""
        child = self._children[name]
        with self._lock:
            child.started_at, child.pause_s = time.monotonic(), down_s
            if child.process is not None:
                _kill_group(child.process.pid)

    def _watch(self) -> None:
        try:
            while True:
                for child in list(self._children.values()):
                    with self._lock:
                        self._tend(child, time.monotonic())
                self._all_started.set()
                if self._stopping.wait(POLL_S):
                    break
        finally:
            self._all_started.set()
            self._stopping.set()
            self._end_all()

    def _tend(self, child: Child, now: float) -> None:
        if child.process is None:
            if now >= child.start_at:
                self._spawn(child, now)
        elif child.process.poll() is not None:
            self._bury(child, child.process, now)
        elif child.kill_at is not None and now >= child.kill_at:
            child.process.kill()

    def _spawn(self, child: Child, now: float) -> None:
        try:
            child.process = _popen(child)
        except OSError as error:
            self._put_off(child, now, f"cannot start: {error}")
        else:
            child.started_at = now
            self._tell(f"{child.name}: started, pid {child.process.pid}")

    def _bury(self, child: Child, process: Process, now: float) -> None:
        _kill_group(process.pid)
        child.process = None
        how = _how_it_ended(process.returncode)
        if child.kill_at is not None:
            child.kill_at = None
            self._tell(f"{child.name}: {how}, starts again as asked")
            return
        if now - child.started_at >= STEADY_S:
            child.pause_s = FIRST_PAUSE_S
        self._put_off(child, now, how)

    def _put_off(self, child: Child, now: float, why: str) -> None:
        self._tell(f"{child.name}: {why}, starts again in {child.pause_s:g} s")
        child.start_at = now + child.pause_s
        child.pause_s = min(2 * child.pause_s, LONGEST_PAUSE_S)

    def _end_all(self) -> None:
        running = [(c, c.process) for c in reversed(self._children.values()) if c.process]
        for _, process in running:
            _ask_to_end(process, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        while any(p.poll() is None for _, p in running) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for child, process in running:
            _kill_group(process.pid)
            process.wait()
            child.process = None
            self._tell(f"{child.name}: {_how_it_ended(process.returncode)}")

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # a closed terminal is no reason to drop the children
            self._say(line)


def _popen(child: Child) -> Process:
    if child.log is None:
        return _spawn_child(child, None)
    child.log.parent.mkdir(parents=True, exist_ok=True)
    with child.log.open("ab") as log:
        return _spawn_child(child, log)


def _spawn_child(child: Child, output: BinaryIO | None) -> Process:
    return subprocess.Popen(
        [*dies_with_parent("KILL"), *child.argv],
        env=child.env,
        cwd=child.cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"ended by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"ended with code {returncode}"


@functools.cache
def dies_with_parent(signal_name: str) -> tuple[str, ...]:
    """Return what to put before an argv so that the program gets the signal when its parent dies.

    Parent means the *thread* that starts it, see PR_SET_PDEATHSIG in prctl(2): start a program from
    a thread that lives as long as the program shall. Empty where the system cannot do that
    (macOS, a setpriv older than util-linux 2.33).
    """
    prefix = ("setpriv", "--pdeathsig", signal_name)
    if shutil.which("setpriv") is None:
        return ()
    works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if works else ()


def end(process: Process, sig: signal.Signals, grace_s: float) -> None:
    """Send `sig` to a child, frozen or not, and SIGKILL if it still runs after `grace_s` seconds."""
    _ask_to_end(process, sig)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask_to_end(process: Process, sig: signal.Signals) -> None:
    process.send_signal(sig)
    process.send_signal(signal.SIGCONT)
