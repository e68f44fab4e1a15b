"""A private RabbitMQ node in one folder, run by the rabbitmq-server that is installed (3.10, 4)."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import amqp

from services.local import needs
from services.local.net import HOST, free_port
from services.local.server import Server
from services.local.supervisor import Process, dies_with_parent, end

NODE = "nameko-hw@localhost"  # one name for all folders: each single node has an epmd of its own
ANSWER_S = 5.0
STOP_S = 30.0

CONFIG = """\
# Written at each start.
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.8
log.connection.level = error
"""


class RabbitMQ(Server):
    """One node. It shares nothing with another RabbitMQ on the machine: epmd, ports and cookie are its own."""

    title = "RabbitMQ"
    readiness = "an AMQP connection"
    stop_signal = signal.SIGTERM
    stop_s = STOP_S

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        node: str = NODE,
        epmd: "Epmd | None" = None,
        more_config: str = "",
    ) -> None:
        """All starts of this object use one AMQP port (default: a free one). Without an `epmd` it has its own."""
        super().__init__(folder, port, "rabbitmq.log")
        self.node = node
        self.more_config = more_config
        self._epmd = epmd or Epmd()
        self._has_own_epmd = epmd is None
        self._dist_port = free_port()

    @staticmethod
    def find() -> Path | None:
        """Return the server's start script, or None when RabbitMQ is not installed."""
        return needs.rabbitmq_server()

    @classmethod
    def ensure_installed(cls) -> Path:
        """Return the start script; install Debian's package first, if we are root or sudo lets us.

        The system's service is not started. Raises NotInstalled, which names what to do by hand.
        """
        needs.ensure([needs.RABBITMQ])
        return _found(cls.find())

    def stop(self) -> None:
        """Stop the node, then its own epmd, and wait for the last process; do nothing when none runs."""
        super().stop()
        if self._has_own_epmd:
            self._epmd.stop()

    @property
    def uri(self) -> str:
        """The AMQP URI of the default virtual host."""
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    def _spawn(self, lock: int) -> Process:
        """Start epmd, where it does not run yet, and the node. Raises NotInstalled."""
        script = str(_found(self.find()))
        (self.folder / "rabbitmq.conf").write_text(CONFIG + self.more_config)
        (self.folder / "enabled_plugins").write_text("[].\n")
        self._epmd.ensure_running(self._popen, self._environment())
        # Each program on the way to the Erlang machine is replaced by the next: one pid for all.
        return self._popen([*dies_with_parent("KILL"), script], self._environment(), lock)

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_SOCKET"))
        }
        files = {
            "HOME": "",  # of the Erlang cookie
            "RABBITMQ_MNESIA_BASE": "data",
            "RABBITMQ_MNESIA_DIR": "data/node",
            "RABBITMQ_LOG_BASE": "",
            "RABBITMQ_CONFIG_FILE": "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced.config",  # this and the next do not exist:
            "RABBITMQ_CONF_ENV_FILE": "rabbitmq-env.conf",  # they keep the system's ones out
            "RABBITMQ_ENABLED_PLUGINS_FILE": "enabled_plugins",
        }
        return {
            **inherited,
            **{name: str(self.folder / path) for name, path in files.items()},
            "PATH": needs.search_path(),
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_LOGS": "-",  # standard output, which is our log
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "+sbwt none +sbwtdcpu none +sbwtdio none",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, not its parent
        }

    def _accepts(self) -> bool:
        try:
            with amqp.Connection(f"{HOST}:{self.port}", connect_timeout=ANSWER_S, read_timeout=ANSWER_S):
                return True
        except (OSError, amqp.AMQPError):
            return False


class Epmd:
    """Erlang's port mapper, by which nodes find each other."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: Process | None = None

    def ensure_running(self, popen: Callable[[Sequence[str], Mapping[str, str]], Process], env: dict[str, str]) -> None:
        if self._process is None or self._process.poll() is not None:
            argv = ["epmd", "-port", str(self.port), "-address", HOST]
            self._process = popen([*dies_with_parent("KILL"), *argv], env)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, STOP_S)
            self._process = None


def _found(script: Path | None) -> Path:
    if script is None:
        raise needs.NotInstalled(needs.RABBITMQ.line())
    return script
