"""PostgreSQL is restarted under load, as an upgrade does it: clients are answered 503 at the worst."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import broken_promises, violations, wait_until_quiet
from tests.client import Api
from tests.faults.answers import statuses
from tests.load import Load

pytestmark = pytest.mark.long
DOWN_S = 20
ASKED_S = 3

#: What PostgreSQL is sent, one signal after the other. A smart shutdown refuses new connections and waits for the old
#: ones, which a pool never closes.
SHUTDOWNS = {"fast": (signal.SIGINT,), "smart, then fast": (signal.SIGTERM, signal.SIGINT)}


@pytest.mark.parametrize("how", SHUTDOWNS)
def test_a_restart_of_the_database_is_answered_503_and_never_500(stack: Stack, api: Api, how: str):
    user_id = api.new_user(balance=1000)["id"]
    with ThreadPoolExecutor(1) as pool, Load(stack.url, clients=4, keyless=4, pause_s=0.01) as load:
        wait_for(lambda: load.counted["paid"] > 10, DOWN_S, "the load to run")
        seen = pool.submit(statuses, api, user_id, how, ASKED_S)  # which looks for Retry-After, too
        for number in SHUTDOWNS[how]:
            os.kill(stack.postgres.pid, number)
            so_far, started = load.counted["requests"], time.monotonic()
            wait_for(lambda: load.counted["requests"] > so_far + 20, DOWN_S, "requests to meet the shutdown")
            assert time.monotonic() - started < DOWN_S
        wait_for(lambda: not stack.postgres.running, DOWN_S, "the server to have shut down")
        stack.postgres.start()
        seen.result()
        paid = load.counted["paid"]
        wait_for(lambda: load.counted["paid"] > paid + 10, DOWN_S, "orders to be paid again")
    assert load.failures == []
    assert {what for what in load.counted if what.startswith("answered")} <= {"answered 503"}
    wait_for(stack.is_ready, DOWN_S, "the services to be ready again")
    wait_until_quiet(stack)
    assert violations(stack) == []
    assert broken_promises(stack, load.sent) == []
