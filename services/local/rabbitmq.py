"""A private RabbitMQ node in one folder, run by the rabbitmq-server that is installed (3.10, 4)."""

import os
import signal
import subprocess
from pathlib import Path

import amqp

from services.local import needs
from services.local.net import HOST, free_port, port_is_free, wait_for
from services.local.supervisor import CannotStart, Process, dies_with_parent, end, take_folder

NODE = "nameko-hw@localhost"  # one name for all folders: each node has an epmd of its own
START_S = 60.0
STOP_S = 30.0
LEFTOVERS_S = 5.0
ANSWER_S = 5.0

CONFIG = """\
# Written at each start.
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.8
log.connection.level = error
"""


class RabbitMQ:
    """One node: data, configuration, cookie, log and lock are in `folder`. Open to 127.0.0.1 only.

    It shares nothing with another RabbitMQ on the machine: epmd, ports and cookie are its own.
    Start it from a thread that lives as long as the node shall, see `dies_with_parent`.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """All starts of this object use one AMQP port (default: a free one)."""
        self.folder = Path(folder).absolute()
        self.port = port or free_port()
        self.log = self.folder / "rabbitmq.log"
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._epmd: Process | None = None
        self._beam: Process | None = None

    @staticmethod
    def find() -> Path | None:
        """Return the server's start script, or None when RabbitMQ is not installed."""
        return needs.rabbitmq_server()

    @classmethod
    def ensure_installed(cls) -> Path:
        """Return the start script; install Debian's package first, if we are root or sudo lets us.

        Does not start the system's service. Raises NotInstalled, which says what to do by hand.
        """
        needs.ensure([needs.RABBITMQ])
        return _found(cls.find())

    def start(self) -> None:
        """Start the node and return once an AMQP client can log in.

        Raises NotInstalled, FolderInUse when a node already runs there, CannotStart for the rest.
        """
        script = _found(self.find())
        lock = take_folder(self.folder, "RabbitMQ", LEFTOVERS_S)
        try:
            self._spawn(script, lock)
        finally:
            os.close(lock)
        try:
            wait_for(self._answers, START_S, "an AMQP connection")
        except BaseException as error:
            self.stop()
            if isinstance(error, TimeoutError):
                raise self._cannot_start(str(error)) from None
            raise

    def stop(self) -> None:
        """Stop the node, then its epmd, and wait for the last process; nothing when none runs."""
        if self._beam is not None:
            end(self._beam, signal.SIGTERM, STOP_S)
            self._beam = None
            os.close(take_folder(self.folder, "RabbitMQ", STOP_S))
        if self._epmd is not None:
            end(self._epmd, signal.SIGTERM, STOP_S)
            self._epmd = None

    @property
    def uri(self) -> str:
        """The AMQP URI of the default virtual host."""
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    @property
    def running(self) -> bool:
        """Whether the node's process lives."""
        return self._beam is not None and self._beam.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the Erlang machine last started; RuntimeError when there is none."""
        if self._beam is None:
            raise RuntimeError(f"RabbitMQ is not running in {self.folder}")
        return self._beam.pid

    def __enter__(self) -> "RabbitMQ":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, script: Path, lock: int) -> None:
        if self._beam is not None:
            self._beam.wait()  # killed, as its lock is free
        if not port_is_free(self.port):
            raise CannotStart(f"RabbitMQ in {self.folder}: port {self.port} is taken")
        (self.folder / "rabbitmq.conf").write_text(CONFIG)
        (self.folder / "enabled_plugins").write_text("[].\n")
        if self._epmd is None or self._epmd.poll() is not None:
            self._epmd = self._popen(["epmd", "-port", str(self._epmd_port), "-address", HOST])
        # Each program on the way to the Erlang machine is replaced by the next: one pid for all.
        self._beam = self._popen([str(script)], pass_fds=(lock,))

    def _popen(self, argv: list[str], pass_fds: tuple[int, ...] = ()) -> Process:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*dies_with_parent("KILL"), *argv],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
            )

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
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_LOGS": "-",  # standard output, which is our log
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "+sbwt none +sbwtdcpu none +sbwtdio none",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, not its parent
        }

    def _answers(self) -> bool:
        if not self.running:
            raise self._cannot_start("the node ended")
        try:
            with amqp.Connection(f"{HOST}:{self.port}", connect_timeout=ANSWER_S, read_timeout=ANSWER_S):
                return True
        except (OSError, amqp.AMQPError):
            return False

    def _cannot_start(self, why: str) -> CannotStart:
        return CannotStart(f"RabbitMQ in {self.folder}: {why}", self.log)


def _found(script: Path | None) -> Path:
    if script is None:
        raise needs.NotInstalled(needs.RABBITMQ.line())
    return script
