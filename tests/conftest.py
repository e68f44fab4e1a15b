"""What tests of several folders share: the system in both of its local modes, each started once."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local import net
from services.local.net import free_port, wait_for
from services.local.stack import ROOT, Stack
from services.local.supervisor import dies_with_parent
from services.shop import chosen_style
from tests.client import Api

pytest.register_assert_rewrite("tests.matrix")
pytest_plugins = ["tests.scratch", "tests.selection", "tests.progress"]

START_S = 60
STOP_S = 30

#: Recovery in seconds rather than in quarters of a minute, so that tests do not wait.
QUICK = {
    "RECOVERY_INTERVAL_S": "0.5",
    "RECOVERY_AFTER_S": "4.5",
    "REQUEST_TIMEOUT_S": "4",
    "RPC_TIMEOUT_S": "1.5",
    "DB_TIMEOUT_S": "2",
    "DRAIN_TIMEOUT_S": "5",
    "EVENT_RETRY_PAUSES_S": "[0.2, 0.4, 0.8]",
    "INBOX_INTERVAL_S": "0.2",
    "INBOX_LEASE_S": "5",
}


#: In the style `events` an order is decided, and a user without an account refused, while a request may still wait.
WAIT_S = None
if chosen_style().name == "events":
    WAIT_S = 4
    QUICK |= {"PUBLISH_TIMEOUT_S": "1", "OUTBOX_LEASE_S": "1.5", "ACCOUNT_WAIT_S": "1.6"}

#: What a process needs in its environment for its coverage to be measured; empty where none is.
MEASURED: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    if worker := getattr(config, "workerinput", None):  # no port is given out by two processes of a run
        ours = net.PORTS[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]
        net.PORTS, theirs = ours[::2], ours[1::2]
        os.environ["FREE_PORTS"] = f"{theirs.start} {theirs.stop} {theirs.step}"  # for the programs that it starts
    if config.getoption("cov_source", None):
        MEASURED["COVERAGE_PROCESS_START"] = str(ROOT / "setup.cfg")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what has been collected to itself: each look of the garbage collector at it all halts the process.

    That takes a quarter of a second where nothing else runs, in which a test with a short deadline may fail.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_servers() -> None:
    """Tests start their own servers, whatever the environment names."""
    for name in list(os.environ):
        if name == "INTERNAL_TOKEN" or name.startswith(("AMQP_", "AUTH")) or name.endswith("_DATABASE_URL"):
            del os.environ[name]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One process a service, a RabbitMQ and a PostgreSQL of its own, a gateway; for all tests of a run."""
    with Stack(tmp_path_factory.mktemp("stack"), free_port(), QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of embedded mode."""
    with Embedded(tmp_path_factory.mktemp("embedded")) as running:
        yield running.url


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    """A client of the stack."""
    with Api(stack.url, WAIT_S) as client:
        yield client


class Embedded:
    """Embedded mode as a child process, as `make run` starts it."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "embedded.log"
        self.settings = settings or QUICK

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*dies_with_parent("INT"), sys.executable, "-m", "services.ops.cli", "run", "--port", str(self.port)],
                stdout=log,
                stderr=log,
                env={**os.environ, **MEASURED, **self.settings, "NAMEKO_HW_FOLDER": str(self.folder)},
                start_new_session=True,
            )
        with Api(self.url) as client:
            wait_for(client.is_ready, START_S, f"embedded mode, see {self.log}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def __enter__(self) -> "Embedded":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
