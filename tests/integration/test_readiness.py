"""Ready means that a service can do something useful: its database takes writes, whatever the broker does."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from requests import Response

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import violations, wait_until_quiet
from tests.client import Api
from tests.commands import audit
from tests.faults.test_draining import suspended
from tests.faults.test_outages import killed
from tests.standby import set_read_only

READ_ONLY_S = 4  # longer than all the pauses between the attempts of an event together
HEALED_S = 60


def health(stack: Stack) -> dict[str, Response]:
    """What each service says of itself."""
    answers = {}
    for service, [port] in stack.ports.items():
        with Api(f"http://127.0.0.1:{port}") as direct:
            answers[service] = direct.get("/health/ready")
    return answers


def brokers(stack: Stack) -> set[str | None]:
    """What the services say of the broker."""
    return {answer.json().get("broker") for answer in health(stack).values() if answer.status_code == 200}


def databases(stack: Stack) -> set[str]:
    """What the metrics of the services say of their databases: 1.0 is up."""
    found = set()
    for service, [port] in stack.ports.items():
        with Api(f"http://127.0.0.1:{port}") as direct:
            [line] = re.findall(r"^nameko_hw_database_up{.*", direct.get("/metrics").text, re.MULTILINE)
        assert f'service="{service}"' in line
        found.add(line.split()[-1])
    return found


@contextmanager
def broker(stack: Stack, how: str) -> Iterator[None]:
    with suspended(stack.rabbitmq.pid) if how == "frozen" else killed(stack.rabbitmq):
        yield


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_without_the_broker_all_services_are_ready_and_useful(stack: Stack, api: Api, how: str):
    wait_for(lambda: brokers(stack) == {"up"}, HEALED_S, "the services to see the broker")
    user_id = api.new_user(balance=100)["id"]
    with broker(stack, how):
        wait_for(lambda: brokers(stack) == {"away"}, 15, "the services to miss the broker")
        for answer in health(stack).values():
            assert answer.status_code == 200
            assert answer.json() == {"status": "ready", "broker": "away"}
            assert answer.elapsed.total_seconds() < 1
        assert api.is_ready()
        assert api.deposit(user_id, 10, f"deposit {how}").status_code == 200
        order = api.order(user_id, 5, f"order {how}")
        assert order.status_code == 202
        [port] = stack.ports["orders"]
        with Api(f"http://127.0.0.1:{port}") as direct:
            assert 'nameko_hw_broker_up{service="orders"} 0.0' in direct.get("/metrics").text
    wait_for(lambda: brokers(stack) == {"up"}, HEALED_S, "the services to see the broker again")
    wait_until_quiet(stack)
    assert violations(stack) == []
    assert api.get(order.headers["Location"]).json()["status"] == "paid"


def test_a_read_only_database_is_an_outage(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    with suspended(stack.supervisor.pid("notifications")):
        order = api.order(user_id, 1, user_id)  # whose event waits for notifications
        wait_until_relayed(stack)
        set_read_only(stack.postgres, True)
    try:
        until = time.monotonic() + READ_ONLY_S
        number = 0
        while time.monotonic() < until:
            number += 1
            refused = [api.deposit(user_id, 1, f"{user_id} {number}"), api.order(user_id, 1, f"{user_id} {number}")]
            for answer in (*refused, api.get("/health/ready"), *health(stack).values()):
                assert answer.status_code == 503, answer.text
                assert answer.headers["Retry-After"]
            assert all("Idempotency-Key" in answer.json()["detail"] for answer in refused)
        assert databases(stack) == {"0.0"}
    finally:
        set_read_only(stack.postgres, False)
    assert databases(stack) == {"1.0"}
    wait_for(stack.is_ready, HEALED_S, "the services to be ready again")
    assert api.deposit(user_id, 1, f"{user_id} 1").status_code == 200
    assert [letter["order_id"] for letter in api.letters(user_id, 1)] == [order.json()["id"]]
    audit(stack)


def wait_until_relayed(stack: Stack) -> None:
    """Return when orders has had its events confirmed."""
    [port] = stack.ports["orders"]
    with Api(f"http://127.0.0.1:{port}") as direct:
        done = 'nameko_hw_outbox_waiting{service="orders"} 0.0'
        wait_for(lambda: done in direct.get("/metrics").text, 10, "the relay")
