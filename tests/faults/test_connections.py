"""Databases turn read-only, connections are cut or lead nowhere: every answer comes in time, and all of it heals."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import create_engine, text

from services.local.net import wait_for
from services.shop import SERVICES
from tests.client import Api
from tests.faults.answers import check_that_it_heals, statuses
from tests.faults.proxied import ProxiedStack
from tests.faults.proxy import Mode, Proxy

OUTAGE_S = 5
CUT_EVERY_S = 0.05
TERMINATE = "select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"


@contextmanager
def read_only(stack: ProxiedStack) -> Iterator[None]:
    """As after a failover to standbys: the sessions are ended, and new ones cannot write."""
    assert stack.postgres
    engine = create_engine(stack.postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with ExitStack() as after, engine.connect() as connection:
        after.callback(engine.dispose)
        for service in SERVICES:
            change = f"alter database {service} set default_transaction_read_only = "
            connection.execute(text(change + "on"))
            connection.execute(text(TERMINATE), {"name": service})
        try:
            yield
        finally:
            for service in SERVICES:
                connection.execute(text(f"alter database {service} set default_transaction_read_only = off"))


@contextmanager
def cut_again_and_again(proxies: dict[str, Proxy]) -> Iterator[None]:
    is_over = threading.Event()

    def cut() -> None:
        while not is_over.wait(CUT_EVERY_S):
            for proxy in proxies.values():
                proxy.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def in_mode(mode: Mode, proxies: dict[str, Proxy]) -> Iterator[None]:
    for proxy in proxies.values():
        proxy.mode = mode
    try:
        yield
    finally:
        for proxy in proxies.values():
            proxy.mode = Mode.PASS


OUTAGES: dict[str, Callable] = {
    "databases read-only": read_only,
    "databases cut": lambda stack: cut_again_and_again(stack.databases),
    "databases in a black hole": lambda stack: in_mode(Mode.BLACK_HOLE, stack.databases),
    "broker cut": lambda stack: cut_again_and_again(stack.brokers),
    "broker in a black hole": lambda stack: in_mode(Mode.BLACK_HOLE, stack.brokers),
    "broker refusing": lambda stack: in_mode(Mode.REFUSE, stack.brokers),
}


@pytest.mark.parametrize("what", OUTAGES)
def test_every_answer_comes_in_time_and_the_system_heals(proxied: ProxiedStack, what: str):
    with Api(proxied.url) as api:
        user_id = api.new_user(balance=1000)["id"]
        with OUTAGES[what](proxied):
            if what in ("databases read-only", "databases in a black hole"):
                wait_for(lambda: not api.is_ready(), 15, "the services to say that they are not ready")
            seen = statuses(api, user_id, what, OUTAGE_S)
        if what in ("databases read-only", "databases in a black hole"):
            assert 503 in seen
        elif what == "broker in a black hole":
            assert 202 in seen
        check_that_it_heals(proxied, api, user_id)
