"""A real PgBouncer in transaction mode between the services and their databases."""

import os
import shutil
import signal
from pathlib import Path

from services.local.needs import PGBOUNCER, ensure, search_path
from services.local.net import HOST, free_port
from services.local.page.control import accepts
from services.local.postgres import USER
from services.local.server import Server
from services.local.stack import Stack, database_variable
from services.local.supervisor import Process, dies_with_parent

CONNECTIONS = 4  # to the server, for each database: fewer than a service has to the pooler
WAITS_S = 3


class PgBouncer(Server):
    """One pooler before the PostgreSQL at `port` of this machine."""

    title = "PgBouncer"
    readiness = "the pooler to accept connections"
    stop_signal = signal.SIGINT
    stop_s = 5.0

    def __init__(self, folder: Path, database_port: int) -> None:
        super().__init__(folder, None, "pgbouncer.log")
        self._database_port = database_port

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://{USER}@{HOST}:{self.port}/{database}"

    def _spawn(self, lock: int) -> Process:
        ensure([PGBOUNCER])
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": CONNECTIONS,
            "query_wait_timeout": WAITS_S,
            "server_login_retry": 1,
        }
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={HOST} port={self._database_port} user={USER}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        program = shutil.which("pgbouncer", path=search_path())
        assert program
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        return self._popen([*dies_with_parent("INT"), program, *user, str(file)], os.environ, lock)

    def _accepts(self) -> bool:
        return accepts(self.port)


class PooledStack(Stack):
    """The services, and nobody else, reach their databases through the pooler."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder, free_port(), settings)
        assert self.postgres
        self.pooler = PgBouncer(folder / "pgbouncer", self.postgres.port)

    @property
    def servers(self) -> dict[str, Server]:
        return {"pooler": self.pooler, **super().servers}

    def environment_of(self, service: str) -> dict[str, str]:
        return self.environment() | {database_variable(service): self.pooler.url(service), "DB_BEHIND_POOLER": "true"}

    def _start_servers(self) -> None:
        super()._start_servers()
        self.pooler.start()
