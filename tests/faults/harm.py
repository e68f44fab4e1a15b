"""The harm that `make faults` does: to processes and servers, to connections, to databases, to clocks.

What lasts is a context manager, so that something else can happen meanwhile.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from kombu.exceptions import KombuError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from services.kit.outbox.table import OutboxRow
from services.local.net import wait_for
from services.shop import SERVICES, services_with
from tests.books import database, one, rows
from tests.broker import publish
from tests.commands import replicas
from tests.faults.proxied import ProxiedStack
from tests.faults.proxy import Fault, Mode, Proxy
from tests.faults.test_draining import suspended

LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
LONGEST_S = 3.0
LOST_REPLIES = 3
MENDED_S = 30


class FakeTimeStack(ProxiedStack):
    """A ProxiedStack whose services read how far their clocks are wrong in `folder`/clocks, where libfaketime is."""

    def environment_of(self, service: str) -> dict[str, str]:
        environment = super().environment_of(service)
        if LIBFAKETIME:  # whose clock_nanosleep fails; eventlet waits in epoll
            self.set_clock(service, 0)
            environment |= {
                "LD_PRELOAD": str(LIBFAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock(service)),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        return environment

    def clock(self, service: str) -> Path:
        return self.folder / "clocks" / service

    def set_clock(self, service: str, wrong_by_s: int) -> None:
        file = self.clock(service)
        file.parent.mkdir(exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(f"{wrong_by_s:+d}\n")
        new.rename(file)


class Harm:
    """Everything that can be done to a running stack. `at_once` happens, `lasting` lasts; both with their weights."""

    def __init__(self, stack: FakeTimeStack, dice: random.Random) -> None:
        assert stack.postgres
        self.stack = stack
        self.postgres = stack.postgres
        self.dice = dice
        self.at_once: dict[Callable[[], None], int] = {
            self.kill_a_service: 5,
            self.stop_a_service: 2,
            self.kill_a_database: 3,
            self.cut_connections: 4,
            self.terminate_sessions: 3,
            self.publish_events_again: 2,
        }
        self.lasting: dict[Callable[[], Any], int] = {
            self.a_service_is_frozen: 3,
            self.the_database_is_frozen: 2,
            self.a_database_is_out_of_reach: 3,
            self.others_are_out_of_reach: 3,
            self.requests_are_cut: 4,
            self.replies_are_lost: 6,
            self.a_database_is_read_only: 3,
            self.accounts_are_locked: 3,
        }
        if stack.rabbitmq:
            self.rabbitmq = stack.rabbitmq
            self.at_once[self.kill_the_broker] = 4
            self.lasting[self.the_broker_is_frozen] = 2
        if stack.style.name == "broker":
            self.at_once[self.repeat_payments] = 2
        if LIBFAKETIME:
            self.lasting[self.clocks_are_wrong] = 2
        #: What makes work wait, so that the next fault meets it.
        self.provoking: list[Callable[[], Any]] = [
            self.letters_are_refused,
            lambda: self.a_database_is_out_of_reach("billing"),
            lambda: self.a_database_is_read_only("notifications"),
            lambda: self.a_database_is_read_only("billing"),
            lambda: self.others_are_out_of_reach("orders"),
            self.accounts_are_locked,
        ]

    def pause(self) -> None:
        time.sleep(self.dice.uniform(0.3, LONGEST_S))

    def a_service(self) -> str:
        return self.dice.choice(SERVICES)

    def kill_a_service(self) -> None:
        self._signal_a_service(signal.SIGKILL)

    def stop_a_service(self) -> None:
        self._signal_a_service(signal.SIGTERM)

    def kill_the_broker(self) -> None:
        self._kill(self.rabbitmq)

    def kill_a_database(self) -> None:
        self._kill(self.postgres)

    def cut_connections(self) -> None:
        """Reset some of the connections of a service, wherever they are."""
        service = self.a_service()
        for proxy in (self.stack.databases[service], *self.stack.links(service)):
            proxy.cut(self.dice.random())

    def terminate_sessions(self) -> None:
        service = self.a_service()
        with suppress(SQLAlchemyError):
            one(
                self.stack,
                service,
                """select count(pg_terminate_backend(pid)) from pg_stat_activity
                                        where datname = :name and pid <> pg_backend_pid()""",
                name=service,
            )

    def publish_events_again(self) -> None:
        """Let the relays publish a tenth of all events once more."""
        for service in services_with(OutboxRow):
            with suppress(SQLAlchemyError):
                rows(
                    self.stack,
                    service,
                    """update outbox set published_at = null, claimed_until = '-infinity'
                                             where published_at is not null and random() < 0.1 returning 1""",
                )

    def repeat_payments(self) -> None:
        """Send requests to pay again, as a broker does after a crash."""
        with suppress(SQLAlchemyError, KombuError, OSError):
            found = rows(
                self.stack,
                "orders",
                """select id, user_id, price from orders where status <> 'pending'
                                                  order by random() limit 5""",
            )
            payments = [
                {"operation_id": str(id_), "user_id": str(user_id), "amount": price} for id_, user_id, price in found
            ]
            for method, arguments in [("pay_all", {"payments": payments}), *(("pay", one) for one in payments)]:
                publish(
                    self.stack,
                    "nameko-rpc",
                    f"billing.{method}",
                    {"args": [], "kwargs": arguments},
                    reply_to=str(uuid4()),
                )

    @contextmanager
    def a_service_is_frozen(self) -> Iterator[None]:
        running = list(replicas(self.stack))
        with ExitStack() as frozen:
            if running:
                with suppress(psutil.NoSuchProcess):
                    frozen.enter_context(suspended(self.dice.choice(running)[1].pid))
            yield

    def the_broker_is_frozen(self) -> Any:
        return suspended(self.rabbitmq.pid)

    def the_database_is_frozen(self) -> Any:
        return suspended(self.postgres.pid)

    def a_database_is_out_of_reach(self, service: str = "") -> Any:
        return self._out_of_reach(self.stack.databases[service or self.a_service()])

    @contextmanager
    def others_are_out_of_reach(self, service: str = "") -> Iterator[None]:
        """A service reaches neither the broker nor, without one, any other service."""
        with ExitStack() as away:
            for proxy in self.stack.links(service or self.a_service()):
                away.enter_context(self._out_of_reach(proxy))
            yield

    @contextmanager
    def _out_of_reach(self, proxy: Proxy) -> Iterator[None]:
        proxy.mode = self.dice.choice([Mode.REFUSE, Mode.BLACK_HOLE, Mode.HOLD])
        if proxy.mode == Mode.REFUSE or self.dice.random() < 0.3:
            proxy.cut()
        try:
            yield
        finally:
            proxy.mode = Mode.PASS

    def requests_are_cut(self) -> Any:
        return self._some(self.dice.choice([Fault.CUT_BEFORE, Fault.CUT_REQUEST, Fault.CUT_REPLY]))

    def replies_are_lost(self) -> Any:
        return self._some(Fault.LOSE_REPLY)

    @contextmanager
    def _some(self, fault: Fault) -> Iterator[None]:
        """Some requests of a service, to its database and to the broker or other services, meet this fault."""
        service = self.a_service()
        proxies = (self.stack.databases[service], *self.stack.links(service))
        for proxy in proxies:
            proxy.add(fault, count=LOST_REPLIES, probability=0.2)
        try:
            yield
        finally:
            for proxy in proxies:
                proxy.rules.clear()

    @contextmanager
    def a_database_is_read_only(self, service: str = "") -> Iterator[None]:
        """As after a failover to a standby: sessions are ended, and new ones cannot write."""
        name = service or self.a_service()
        change = f"alter database {name} set default_transaction_read_only = "
        self._administer(
            change + "on",
            f"""select pg_terminate_backend(pid) from pg_stat_activity
                                            where datname = '{name}' and pid <> pg_backend_pid()""",
        )
        try:
            yield
        finally:
            self._administer(change + "off")

    def _administer(self, *statements: str) -> None:
        assert self.stack.postgres
        engine = create_engine(self.stack.postgres.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    @contextmanager
    def accounts_are_locked(self) -> Iterator[None]:
        """Somebody holds some of the accounts that are in use."""
        engine = create_engine(self.stack.database_url("billing"))
        with ExitStack() as stack:
            stack.callback(engine.dispose)
            with suppress(SQLAlchemyError):  # another fault may have it out of reach, or cut it
                connection = engine.connect()
                stack.callback(lambda: connection.invalidate())
                connection.execute(text("set local lock_timeout = 2000"))
                connection.execute(
                    text("""select 1 from accounts where user_id in (
                    select user_id from accounts order by created_at desc limit 5) order by user_id for update""")
                )
            yield

    @contextmanager
    def letters_are_refused(self) -> Iterator[None]:
        """A third of all letters cannot be stored: their events fail, the database does not."""
        self._of_letters("""alter table letters add constraint refused
                            check (hashtext(order_id::text) % 3 <> 0) not valid""")
        try:
            yield
        finally:
            wait_for(
                lambda: self._of_letters("alter table letters drop constraint if exists refused"),
                MENDED_S,
                "the table of letters to be mended",
            )

    def _of_letters(self, statement: str) -> bool:
        with suppress(SQLAlchemyError), database(self.stack, "notifications") as connection:
            connection.execute(text("set transaction read write"))
            connection.execute(text("set local lock_timeout = 2000"))
            connection.execute(text(statement))
            return True
        return False

    @contextmanager
    def clocks_are_wrong(self) -> Iterator[None]:
        """The clock of a service's processes jumps, and jumps back."""
        service = self.a_service()
        self.stack.set_clock(service, self.dice.choice([-1, 1]) * self.dice.choice([5, 600, 86_400]))
        try:
            yield
        finally:
            self.stack.set_clock(service, 0)

    def _signal_a_service(self, number: signal.Signals) -> None:
        running = list(replicas(self.stack))
        if running:
            _, process = self.dice.choice(running)
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _kill(self, server) -> None:
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not server.running, 10, "the server to be dead")
        time.sleep(self.dice.uniform(0, 1))
        server.start()
