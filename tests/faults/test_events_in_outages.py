"""Notifications' own database, or the broker, is away while events wait: none is lost, and nothing spins."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from services.local.net import free_port, wait_for
from services.local.stack import Stack
from tests.books import rows, violations, wait_until_quiet
from tests.broker import HANDLERS, channel, failing
from tests.client import Api
from tests.conftest import QUICK
from tests.faults.test_outages import killed

ORDERS = 60
LONGER_THAN_ALL_PAUSES_S = 6  # they are 1.4 s in all
HEALED_S = 30
IDLE_PERCENT = 15
PAUSED, RESUMED = "event handling of notifications paused", "event handling of notifications resumed"


@contextmanager
def away(stack: Stack, service: str) -> Iterator[None]:
    """One database takes no connections meanwhile, and those that it had are cut."""
    engine = create_engine(stack.database_url(service).rpartition("/")[0] + "/postgres", isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"alter database {service} allow_connections false"))
            connection.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": service}
            )
            try:
                yield
            finally:
                connection.execute(text(f"alter database {service} allow_connections true"))
    finally:
        engine.dispose()


def order_many(api: Api, user_id: str, count: int = ORDERS) -> set[str]:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.order(user_id, 1), range(count)))
    assert {answer.status_code for answer in answers} == {201}
    return {answer.json()["id"] for answer in answers}


def dead(stack: Stack) -> list[str]:
    return [row.reason for row in rows(stack, "notifications", "select reason from inbox")]


class Log:
    """What notifications writes into its log from now on."""

    def __init__(self, stack: Stack) -> None:
        self.path: Path = stack.folder / "logs" / "notifications.log"
        self.begin = self.path.stat().st_size

    def lines(self, with_: str = "") -> list[str]:
        return [line for line in self.path.read_bytes()[self.begin :].decode().splitlines() if with_ in line]


def test_an_outage_of_the_database_counts_as_no_attempt_and_costs_next_to_nothing(stack: Stack, api: Api):
    user_id, log = api.new_user(balance=1000)["id"], Log(stack)
    pid = stack.supervisor.pid("notifications")
    with away(stack, "notifications"):
        orders = order_many(api, user_id)
        wait_for(lambda: log.lines(PAUSED), HEALED_S, "the outage to be noticed")
        busy = psutil.Process(pid).cpu_percent(interval=LONGER_THAN_ALL_PAUSES_S)
        assert len(log.lines()) <= 1, log.lines()
    letters = api.letters(user_id, len(orders))
    assert {letter["order_id"] for letter in letters} == orders and len(letters) == len(orders)
    wait_for(lambda: log.lines(RESUMED), HEALED_S, "the end of the outage to be noticed")
    assert len(log.lines()) == 2, log.lines()
    assert dead(stack) == [] and failing(stack) == []
    assert busy < IDLE_PERCENT, f"{busy} % of a core"
    assert stack.supervisor.pid("notifications") == pid


def test_no_letter_is_lost_when_the_broker_is_killed_while_events_wait_for_the_database(stack: Stack, api: Api):
    user_id, log = api.new_user(balance=1000)["id"], Log(stack)
    pid = stack.supervisor.pid("notifications")
    with away(stack, "notifications"):
        orders = order_many(api, user_id)
        wait_for(lambda: log.lines(PAUSED), HEALED_S, "the outage to be noticed")
        with killed(stack.rabbitmq):
            pass
        wait_for(lambda: log.lines("Connected to"), HEALED_S, "the connection to the broker")
    wait_for(stack.is_ready, HEALED_S, "the stack to be ready")
    wait_until_quiet(stack)
    letters = api.letters(user_id, len(orders))
    assert {letter["order_id"] for letter in letters} == orders and len(letters) == len(orders)
    assert dead(stack) == [] and failing(stack) == []
    assert violations(stack) == []
    assert stack.supervisor.pid("notifications") == pid
    wait_for(lambda: log.lines(RESUMED), HEALED_S, "the end of the outage to be noticed")


def test_what_is_held_is_left_to_the_broker_when_the_service_stops(stack: Stack, api: Api):
    user_id, log = api.new_user(balance=1000)["id"], Log(stack)
    pid = stack.supervisor.pid("notifications")
    with away(stack, "notifications"):
        orders = order_many(api, user_id, 5)
        wait_for(lambda: log.lines(PAUSED), HEALED_S, "the outage to be noticed")
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(pid), 20, "the process to end")
        assert time.monotonic() - started < float(QUICK["DRAIN_TIMEOUT_S"]), "it was not done before its deadline"
    assert {letter["order_id"] for letter in api_letters(stack, api, user_id, 5)} == orders


def api_letters(stack: Stack, api: Api, user_id: str, count: int) -> list[dict[str, str]]:
    wait_for(stack.is_ready, HEALED_S, "the stack to be ready")
    return api.letters(user_id, count)


def test_a_service_that_is_asked_to_stop_while_the_broker_is_away_does(stack: Stack):
    pid, log = stack.supervisor.pid("notifications"), Log(stack)
    with killed(stack.rabbitmq):
        wait_for(lambda: log.lines("cannot connect to the broker"), HEALED_S, "notifications to miss the broker")
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(pid), 30, "the process to end")
        assert time.monotonic() - started < float(QUICK["DRAIN_TIMEOUT_S"]), "it was not done before its deadline"
    wait_for(stack.is_ready, HEALED_S, "the stack to be ready")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Stack]:
    """The stack with a broker that closes a channel on which a message is unacknowledged for some seconds."""
    stack = Stack(tmp_path, free_port(), QUICK)
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "advanced.config").write_text(
        "[{rabbit, [{consumer_timeout, 1000}, {channel_tick_interval, 500}]}].\n"
    )
    with stack:
        yield stack


def test_a_channel_that_the_broker_closes_is_opened_again(impatient: Stack):
    with Api(impatient.url) as api:
        user_id, log = api.new_user(balance=1000)["id"], Log(impatient)
        pid = impatient.supervisor.pid("notifications")
        with away(impatient, "notifications"):
            orders = order_many(api, user_id, 10)
            wait_for(lambda: len(log.lines("Connected to")) > 1, HEALED_S, "the broker to close two channels")
        letters = api.letters(user_id, len(orders))
        assert {letter["order_id"] for letter in letters} == orders and len(letters) == len(orders)
        assert impatient.supervisor.pid("notifications") == pid
        with channel(impatient) as one:
            wait_for(
                lambda: HANDLERS["order_paid"](one).queue_declare(passive=True).message_count == 0,
                HEALED_S,
                "the queue to be empty",
            )
