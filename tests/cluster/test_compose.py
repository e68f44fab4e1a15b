"""The Compose file on a real engine: up, used, hurt, down, and up again on the same volumes. In this order.

COMPOSE   how Compose is called, such as `docker compose`; without it these tests are skipped

The engine has to be on this machine, as its containers are killed by their pids. DOCKER_HOST may name its socket. What
the tests have started they remove, volumes included.
"""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.net import free_port, wait_for
from services.local.stack import ROOT
from services.shop import SERVICES
from tests.acceptance.newman import newman
from tests.client import Api
from tests.cluster.load import Load

PROJECT = "nameko-hw-test"
UP_S = 900  # with building the image
BACK_S = 120


class Compose:
    """What Compose does with our project."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command = [*command, "--project-name", PROJECT]
        self.environment = {**os.environ, "PORT": str(port), "STYLE": "broker"}
        self.url = f"http://127.0.0.1:{port}"

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=UP_S,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def up(self) -> None:
        self.run("up", "--wait", "--wait-timeout", str(UP_S))

    def states(self) -> dict[str, str]:
        """The health of each container, by its service."""
        return {
            one["Service"]: one["Health"] for one in map(json.loads, self.run("ps", "--format", "json").splitlines())
        }

    def pid(self, service: str) -> int:
        """The pid of the first process in the container of a service; 0 while there is none."""
        container = self.run("ps", "--all", "--quiet", service).strip()
        command = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=BACK_S).stdout)


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """Everything that the file describes, up and healthy; at the end, nothing of it."""
    if not os.environ.get("COMPOSE"):
        pytest.skip("COMPOSE names no command")
    running = Compose(shlex.split(os.environ["COMPOSE"]), free_port())
    try:
        running.up()
        yield running
    finally:
        running.run("down", "--volumes", "--timeout", "30")


def test_everything_is_healthy_when_it_is_up(compose: Compose):
    assert compose.states() == dict.fromkeys((*SERVICES, "proxy", "postgres", "rabbitmq"), "healthy")


def test_the_postman_suite_passes_through_the_proxy(compose: Compose, tmp_path: Path):
    run = newman(compose.url, tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]


#: Prints the programs of the system in the image, the files that give rights or can be changed, and what installs.
LOOK = """
import json, os, stat
from importlib.util import find_spec
tops = ("/app", "/etc", "/opt", "/usr")
files = [os.path.join(folder, name) for top in tops for folder, _, names in os.walk(top) for name in names]
files = [file for file in files if not os.path.islink(file)]
folders = filter(os.path.isdir, ("/bin", "/sbin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"))
print(json.dumps({
    "programs": sorted(name for folder in folders for name in os.listdir(folder)),
    "rights": [file for file in files if os.lstat(file).st_mode & (stat.S_ISUID | stat.S_ISGID)],
    "ours": [file for file in files if os.lstat(file).st_uid == os.getuid() or os.access(file, os.W_OK)],
    "installers": [name for name in ("pip", "ensurepip") if find_spec(name)],
}))
"""


def test_the_image_holds_no_program_that_nobody_calls_and_nothing_that_can_be_changed(compose: Compose):
    seen = json.loads(compose.run("exec", "-T", "orders", "python", "-c", LOOK))
    assert {name for name in seen.pop("programs") if not name.startswith("python")} == {"dash", "sh", "sleep"}
    assert seen == {"rights": [], "ours": [], "installers": []}


@pytest.mark.parametrize("service", [*SERVICES, "postgres", "rabbitmq", "proxy"])
def test_a_container_that_is_killed_comes_back_and_costs_no_order_no_money_and_no_letter(
    compose: Compose, service: str
):
    with Load(compose.url) as load:
        killed = compose.pid(service)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: compose.pid(service) not in (0, killed), BACK_S, f"{service} to run again")
        wait_for(lambda: set(compose.states().values()) == {"healthy"}, BACK_S, "everything to be healthy")
        load.goes_on()


def test_what_was_put_down_comes_up_again_with_all_that_it_held(compose: Compose):
    with Api(compose.url) as api:
        user = api.new_user(balance=7)
        assert api.order(user["id"], 3).json()["status"] == "paid"
    compose.run("down")
    compose.up()
    with Api(compose.url) as api:
        assert api.balance(user["id"]) == 4
        assert api.order(user["id"], 4).json()["status"] == "paid"
        assert len(api.letters(user["id"], 2)) == 2
