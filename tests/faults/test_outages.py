"""The broker or a database goes away, or hangs: every answer comes in time, and the system heals by itself."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.local.net import free_port, wait_for
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import Stack
from services.shop import DEFAULT_STYLE
from tests.client import Api
from tests.conftest import QUICK
from tests.faults.answers import HEALED_S, check_that_it_heals, statuses
from tests.faults.test_draining import suspended
from tests.selection import EACH_STYLE

OUTAGE_S = 8


@pytest.fixture(scope="module", params=EACH_STYLE)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack in a style; that of all tests in the default one."""
    if request.param.name == DEFAULT_STYLE:
        yield request.getfixturevalue("stack")
        return
    with Stack(tmp_path_factory.mktemp("styled"), free_port(), QUICK, style=request.param) as running:
        yield running


def server_of(stack: Stack, name: str) -> RabbitMQ | Postgres:
    server: RabbitMQ | Postgres | None = getattr(stack, name)
    if server is None:
        pytest.skip("this style has no broker")
    return server


@contextmanager
def killed(server) -> Iterator[None]:
    """The server does not run meanwhile, and has had no time to say goodbye."""
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not server.running, 10, "the server to be dead")
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server) -> Iterator[None]:
    with suspended(server.pid):
        yield


@pytest.mark.parametrize("outage", [killed, frozen])
@pytest.mark.parametrize("name", ["rabbitmq", "postgres"])
def test_every_answer_comes_in_time_and_the_system_heals(stack: Stack, api: Api, name: str, outage: Callable):
    user_id = api.new_user(balance=1000)["id"]
    with outage(server_of(stack, name)):
        wait_for(lambda: api.is_ready() == (name == "rabbitmq"), 15, "the services to say whether they are ready")
        seen = statuses(api, user_id, f"{name} {outage.__name__}", OUTAGE_S)
    assert (202 if name == "rabbitmq" else 503) in seen
    check_that_it_heals(stack, api, user_id)


@pytest.mark.parametrize("name", ["rabbitmq", "postgres"])
def test_a_service_that_is_started_first_waits_and_is_not_ready(stack: Stack, api: Api, name: str):
    user_id = api.new_user(balance=10)["id"]
    with killed(server_of(stack, name)):
        pids = {}
        for service in ("orders", "notifications"):
            pid = stack.supervisor.pid(service)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda one=service, old=pid: stack.supervisor.pid(one) not in (None, old), 20, "a new process")
            pids[service] = stack.supervisor.pid(service)
        for service, pid in pids.items():
            with Api(f"http://127.0.0.1:{stack.ports[service][0]}") as direct:
                wait_for(lambda one=direct: lives(one), 20, f"{service} to live")
                assert direct.get("/health/ready").status_code == (503 if name == "postgres" else 200)
                assert stack.supervisor.pid(service) == pid
    wait_for(stack.is_ready, HEALED_S, "the services to be ready")
    assert {service: stack.supervisor.pid(service) for service in pids} == pids
    order = api.order(user_id, 1, user_id)
    assert order.status_code in (201, 202)
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order.json()["id"]]


def lives(api: Api) -> bool:
    try:
        return api.get("/health/live").status_code == 200
    except OSError:
        return False
