"""A private server in one folder: what PostgreSQL and RabbitMQ have in common."""

import fcntl
import glob
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from services.local.net import free_port, port_is_free, wait_for
from services.local.supervisor import Process, end
from services.ops.errors import CommandError

START_S = 60.0  # covers the recovery after a kill
LEFTOVERS_S = 5.0  # the processes of a killed server need a moment to notice it
LOCK = "lock"  # the file in the folder that every process of the server has open
LOG_TAIL_LINES = 60  # RabbitMQ gives its reason some fifty lines before its last one


class FolderInUse(CommandError):
    """A server is already running in the folder."""


class CannotStart(CommandError):
    """A server did not come up; the message carries the end of its log."""

    def __init__(self, why: str, log: Path | None = None) -> None:
        if log is not None and log.exists():
            lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            why = "\n".join([f"{why}; the end of {log}:", *lines])
        super().__init__(why)


class Server:
    """One server: its data, log and lock are in `folder`, and only 127.0.0.1 reaches it.

    Start it from a thread that lives as long as the server shall, see `dies_with_parent`.
    """

    title: str  # of the server in messages
    readiness: str  # what it can do once it has started
    stop_signal: signal.Signals  # for a fast and clean stop
    stop_s: float  # how long that may take before it is killed

    def __init__(self, folder: Path, port: int | None, log: str) -> None:
        self.folder = Path(folder).absolute()
        self.port = port or free_port()
        self.log = self.folder / log
        self._process: Process | None = None
        self._has_started = False

    def start(self) -> None:
        """Start the server, and return once it can be used.

        Raises FolderInUse when a server already runs in the folder, CannotStart when this one does not come up.
        """
        self.begin_to_start()
        self.wait_until_up()

    def begin_to_start(self) -> None:
        """Start the process of the server. Raises what `start` raises."""
        lock = take_folder(self.folder, self.title, LEFTOVERS_S)
        try:
            if self._process is not None:
                self._process.wait()  # killed, as its lock is free
            if not port_is_free(self.port):
                raise CannotStart(f"{self.title} in {self.folder}: port {self.port} is taken")
            self._has_started = False
            self._process = self._spawn(lock)
        finally:
            os.close(lock)

    def wait_until_up(self) -> None:
        """Wait until the server can be used. Raises CannotStart when it does not come up."""
        try:
            wait_for(self._is_up, START_S, self.readiness)
            self._has_started = True
        except BaseException as error:
            self.stop()
            if isinstance(error, TimeoutError):
                raise self._cannot_start(str(error)) from None
            raise

    def stop(self) -> None:
        """Stop the server and wait for the last of its processes; do nothing when it does not run."""
        if self._process is not None:
            end(self._process, self.stop_signal, self.stop_s)
            self._process = None
            os.close(take_folder(self.folder, self.title, self.stop_s))

    def kill(self) -> None:
        """Kill the server with all of its processes, frozen ones too, and wait for the last of them."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for pid in holders_of(self.folder / LOCK):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(take_folder(self.folder, self.title, LEFTOVERS_S))

    @property
    def running(self) -> bool:
        """Whether the process of the server lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether it runs and can be used, as far as we know."""
        return self.running and self._has_started

    @property
    def pid(self) -> int:
        """The process id of the server last started. Raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError(f"{self.title} is not running in {self.folder}")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, lock: int) -> Process:
        """Start the process of the server, which inherits the descriptor `lock`, and prepare what it needs."""
        raise NotImplementedError

    def _accepts(self) -> bool:
        """Ask the server whether it can be used."""
        raise NotImplementedError

    def _is_up(self) -> bool:
        if not self.running:
            raise self._cannot_start("the server ended")
        return self._accepts()

    def _popen(self, argv: Sequence[str], env: Mapping[str, str], lock: int | None = None) -> Process:
        """Start a program in the folder, with its output in the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                argv,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if lock is None else (lock,),
                start_new_session=True,
            )

    def _cannot_start(self, why: str) -> CannotStart:
        return CannotStart(f"{self.title} in {self.folder}: {why}", self.log)


def holders_of(file: Path) -> list[int]:
    """Return the ids of the other processes that have `file` open; none where there is no /proc."""
    found = set()
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):  # unlike Path.glob, passes over a process that ends meanwhile
        with suppress(OSError):  # it has ended, or is not ours
            if os.readlink(descriptor) == str(file):
                found.add(int(descriptor.split("/")[2]))
    return sorted(found - {os.getpid()})


def take_folder(folder: Path, what: str, timeout_s: float) -> int:
    """Lock `folder` for the server `what`; return a descriptor that holds the lock until it is closed.

    A server that inherits the descriptor (`pass_fds`) holds the lock as long as any of its processes
    lives. Raises FolderInUse when the lock is not free within `timeout_s` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)

    def locked() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        wait_for(locked, timeout_s, "the lock")
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, TimeoutError):
            raise FolderInUse(f"{what} is already running in {folder}") from None
        raise
    return descriptor
