"""The relay with a simulated database, broker and clock: no event is lost, whatever fails in whatever order.

Hypothesis generates the histories (Claessen and Hughes, "QuickCheck", 2000; stateful testing).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.kit import outage
from services.kit.errors import DatabaseAway, Refused, Unavailable
from services.kit.metrics import metrics_of
from services.kit.outbox import relay as module
from services.kit.outbox.relay import Relay
from services.kit.outbox.table import OutgoingEvent

SETTINGS = SimpleNamespace(
    OUTBOX_BATCH=4,
    OUTBOX_INTERVAL_S=1.0,
    OUTBOX_LEASE_S=15.0,
    OUTBOX_GATHER_S=0,
    OUTBOX_KEEP_S=100.0,
    PUBLISH_TIMEOUT_S=5.0,
)
CONTAINER = SimpleNamespace(service_name="orders", config={}, settings=SETTINGS, metrics=metrics_of("unit"))


class Row(SimpleNamespace):
    """A row of the outbox."""


class World:
    """The clock, the database and the broker. Tests set how the two fail."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rows: dict[str, Row] = {}
        self.db_fails = ""  # the next statement, "before" or "after" its commit
        self.broker_fails = ""  # "away" or "silent", until it is reset
        self.loses = False  # the next confirms, and the messages with them
        self.transport = "amqp"  # what the database names
        self.unroutable: set[str] = set()
        self.refused: set[str] = set()
        self.has: set[str] = set()  # event ids that were confirmed
        self.got: list[str] = []  # event ids that the broker has received
        self.log: list[str] = []

    # the clock
    def monotonic(self) -> float:
        return self.now

    # the database
    @contextmanager
    def autocommit(self) -> Iterator["World"]:
        fails, self.db_fails = self.db_fails, ""
        if fails == "before":
            raise DatabaseAway("", {}, Exception())
        yield self
        if fails == "after":
            raise DatabaseAway("", {}, Exception())

    def insert(self, number: int) -> list[OutgoingEvent]:
        """Commit events under the lease of this process."""
        made = [OutgoingEvent(f"{len(self.rows) + one}", "order_paid", "{}") for one in range(number)]
        for one in made:
            self.rows[one.event_id] = Row(
                event=one, created_at=self.now, published=False, claimed_until=self.now + SETTINGS.OUTBOX_LEASE_S
            )
        return made

    def lease_batch(self, _: Any, batch: int, lease_s: float) -> list[OutgoingEvent]:
        free = sorted(
            (row for row in self.rows.values() if not row.published and row.claimed_until < self.now),
            key=lambda row: (row.claimed_until, int(row.event.event_id)),
        )[:batch]
        for row in free:
            row.claimed_until = self.now + lease_s
        return [row.event for row in free]

    def mark_published(self, _: Any, ids: list[str], transport: str) -> bool:
        for one in ids:
            assert one in self.has, "an event is marked that the broker has not confirmed"
            self.rows[one].published = transport == self.transport
        return transport == self.transport

    def release(self, _: Any, ids: list[str], longest_pause_s: float) -> None:
        for one in ids:
            row = self.rows[one]
            row.claimed_until = self.now + min(max(self.now - row.created_at, 1), longest_pause_s) - 1e-6
        self.log.append(f"released {len(ids)}")

    def count_waiting(self, _: Any) -> tuple[int, float]:
        return 0, 0.0

    def remove_old(self, *_: Any) -> tuple[int, int]:
        return 0, 0


class Transport:
    """Sends events to the broker of a world, as AmqpTransport does."""

    name = "amqp"
    receiver = "the broker"

    def __init__(self, world: World) -> None:
        self.world = world
        self.in_flight: list[str] = []
        self.batches: list[int] = []

    def send(self, events: list[OutgoingEvent]) -> None:
        self.batches.append(len(events))
        self._fail_if_set()
        self.in_flight += [event.event_id for event in events]

    def wait_for_confirms(self) -> list[bool]:
        self._fail_if_set()
        if any(one in self.world.refused for one in self.in_flight):
            self.in_flight = []
            raise Refused("the channel is closed")
        self.world.got += self.in_flight
        if self.world.loses:
            self.world.loses, self.in_flight = False, []
            raise Unavailable("did not confirm in time")
        taken = [one not in self.world.unroutable for one in self.in_flight]
        self.world.has |= {one for one, is_taken in zip(self.in_flight, taken, strict=True) if is_taken}
        self.in_flight = []
        return taken

    def publish(self, events: list[OutgoingEvent]) -> list[bool]:
        self.send(events)
        return self.wait_for_confirms()

    def _fail_if_set(self) -> None:
        if self.world.broker_fails:
            self.in_flight = []
            self.world.now += SETTINGS.PUBLISH_TIMEOUT_S if self.world.broker_fails == "silent" else 0
            raise Unavailable(self.world.broker_fails)


STATEMENTS = ("lease_batch", "mark_published", "release", "count_waiting", "remove_old")


@contextmanager
def simulated(world: World) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in STATEMENTS:
            patch.setattr(module, name, getattr(world, name))
        patch.setattr(module, "time", world)
        patch.setattr(outage, "time", world)
        yield


def a_relay(world: World) -> Relay:
    return Relay(CONTAINER, cast(Any, world), cast(Any, Transport(world)))


class Histories(RuleBasedStateMachine):
    """Commits, rounds and deaths of the relays of two replicas, while the database and the broker fail."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.simulation = simulated(self.world)
        self.simulation.__enter__()
        self.relays = [a_relay(self.world), a_relay(self.world)]

    @rule(number=st.integers(1, 9), which=st.integers(0, 1))
    def commit(self, number: int, which: int) -> None:
        self.relays[which].publish_soon(self.world.insert(number))

    @rule(number=st.integers(1, 9))
    def commit_and_die_before_publishing(self, number: int) -> None:
        self.world.insert(number)

    @rule(which=st.integers(0, 1), is_last=st.booleans())
    def work(self, which: int, is_last: bool) -> None:
        started = self.world.now
        self.relays[which].work(is_last)
        assert self.world.now - started < 60, "a round waits without end"

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        self.relays[which] = a_relay(self.world)

    @rule(seconds=st.floats(0.1, 20))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(how=st.sampled_from(["before", "after"]))
    def let_the_database_fail(self, how: str) -> None:
        self.world.db_fails = how

    @rule(how=st.sampled_from(["away", "silent", ""]))
    def let_the_broker_fail_or_come_back(self, how: str) -> None:
        self.world.broker_fails = how

    @rule()
    def lose_the_next_confirms(self) -> None:
        self.world.loses = True

    @rule(number=st.integers(1, 99), what=st.sampled_from(["unroutable", "refused"]))
    def take_no_more_of_an_event(self, number: int, what: str) -> None:
        getattr(self.world, what).add(str(number))

    @invariant()
    def every_event_is_published_or_somebody_will_publish_it(self) -> None:
        if hasattr(self, "world"):
            for row in self.world.rows.values():
                assert row.published or row.claimed_until <= self.world.now + SETTINGS.OUTBOX_LEASE_S

    def teardown(self) -> None:
        """Repair all but the events that the broker does not take: the others are published within two leases."""
        if not hasattr(self, "world"):
            return
        self.world.db_fails = self.world.broker_fails = ""
        self.world.loses = False
        never_taken = self.world.unroutable | self.world.refused
        deadline = self.world.now + 2 * SETTINGS.OUTBOX_LEASE_S + 2
        while self.world.now < deadline:
            self.relays[0].work()
            self.world.now += SETTINGS.OUTBOX_INTERVAL_S
        try:
            assert {one for one, row in self.world.rows.items() if not row.published} <= never_taken, "events are lost"
            assert {one for one, row in self.world.rows.items() if row.published} <= self.world.has
            self.take_every_event()
        finally:
            self.simulation.__exit__(None, None, None)

    def take_every_event(self) -> None:
        """Let the broker take those too: then they are published."""
        self.world.unroutable.clear()
        self.world.refused.clear()
        deadline = self.world.now + SETTINGS.OUTBOX_LEASE_S + 2
        while self.world.now < deadline:
            self.relays[0].work()
            self.world.now += SETTINGS.OUTBOX_INTERVAL_S
        assert all(row.published for row in self.world.rows.values())


def test_no_history_loses_an_event_or_marks_one_that_the_broker_has_not():
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with simulated(world):
        yield world


def test_events_whose_confirms_fail_are_released_at_once(world):
    relay = a_relay(world)
    relay.publish_soon(world.insert(3))
    world.loses = True
    relay.work()
    assert world.log == ["released 3"]
    assert all(row.published for row in world.rows.values()), "the same round finds them"
    assert sorted(world.got) == ["0", "0", "1", "1", "2", "2"]


def test_events_that_cannot_be_sent_are_released_at_once(world):
    relay = a_relay(world)
    relay.publish_soon(world.insert(3))
    world.broker_fails = "away"
    relay.work()
    assert world.log[0] == "released 3"


def test_what_is_in_memory_is_published_before_the_service_stops(world):
    relay = a_relay(world)
    relay.work()  # it polls again in OUTBOX_INTERVAL_S
    relay.publish_soon(world.insert(3))
    relay.stop()
    relay.run()
    assert all(row.published for row in world.rows.values())


def test_while_the_broker_is_away_one_event_at_a_time_asks_for_it_and_two_lines_are_logged(world, caplog):
    caplog.set_level(logging.INFO)
    relay = a_relay(world)
    relay.publish_soon(world.insert(40))
    world.broker_fails = "away"
    for _ in range(30):
        relay.work()
        world.now += 1
    assert world.log == ["released 40", *["released 1"] * 30]
    assert caplog.messages == ["outbox of orders paused: the broker is away (away)"]
    world.broker_fails = ""
    for _ in range(2):
        relay.work()
        world.now += 5
    assert [one.getMessage() for one in caplog.records][1:] == [
        "outbox of orders resumed: the broker is back after 30 s"
    ]
    assert all(row.published for row in world.rows.values())


def test_once_the_broker_is_back_events_are_published_together_again(world):
    relay = a_relay(world)
    relay.publish_soon(world.insert(13))
    world.broker_fails = "away"
    relay.work()
    world.broker_fails, cast(Any, relay.transport).batches = "", []
    world.now += 6
    relay.work()
    assert cast(Any, relay.transport).batches == [1, 2, 4, 4, 2]


def test_an_outage_of_the_database_is_logged_once_too(world, caplog):
    caplog.set_level(logging.INFO)
    relay = a_relay(world)
    for _ in range(5):
        world.db_fails = "before"
        relay.work()
        world.now += 1
    relay.work()
    assert caplog.messages == [
        "outbox of orders paused: its database is away (DatabaseAway)",
        "outbox of orders resumed: its database is back after 5 s",
    ]


def test_events_that_no_queue_takes_do_not_hold_up_those_behind_them_and_are_logged_once(world, caplog):
    relay = a_relay(world)
    world.insert(50)
    world.unroutable = set(world.rows)
    good = {one.event_id for one in world.insert(3)}
    world.now += 16
    relay.work()
    assert {one for one, row in world.rows.items() if row.published} == good
    assert len(caplog.records) == 1
    for _ in range(20):
        world.now += 1
        relay.work()
    tries = world.got.count("0")
    assert tries == 2, "at the age of 16 s, and 15 s later"
    assert len(caplog.records) == 1


def test_an_event_that_the_broker_refuses_does_not_hold_up_the_others(world):
    relay = a_relay(world)
    relay.publish_soon(world.insert(9))
    world.refused = {"0", "4"}
    relay.work()
    assert {one for one, row in world.rows.items() if not row.published} == {"0", "4"}
    world.refused = set()
    world.now += 16
    relay.work()
    assert all(row.published for row in world.rows.values())


def test_events_that_are_sent_alone_when_the_broker_goes_away_are_released_at_once(world):
    relay = a_relay(world)
    relay.publish_soon(world.insert(4))
    world.refused = {"0"}
    publish = relay.transport.publish

    def publish_two(events: list[OutgoingEvent]) -> list[bool]:
        if events[0].event_id == "2":
            world.broker_fails = "away"
        return publish(events)

    relay.transport.publish = publish_two
    relay.work()
    assert [one for one, row in world.rows.items() if row.published] == ["1"]
    assert world.log[:2] == ["released 2", "released 1"], "events 2 and 3, and the refused one with a pause"
    assert world.rows["3"].claimed_until < world.now


def test_what_is_published_after_a_hand_over_is_not_marked_and_this_is_logged_once(world, caplog):
    relay = a_relay(world)
    relay.publish_soon(world.insert(3))
    world.transport = "http"
    relay.work()
    relay.publish_soon(world.insert(1))
    relay.work(is_last=True)
    assert len(world.got) == 4 and not any(row.published for row in world.rows.values())
    assert caplog.messages == ["the outbox was handed over: what is published by amqp is not marked"]


def test_events_that_nobody_waits_for_are_marked_and_not_sent(world):
    relay = Relay(CONTAINER, cast(Any, world), cast(Any, Transport(world)), frozenset({"order_paid"}))
    left = {event.event_id for event in world.insert(2)}
    world.has |= left  # the fake asks for it
    world.now += 16
    relay.work()
    assert world.got == [] and all(row.published for row in world.rows.values())


def test_what_is_published_at_once_is_marked_by_the_next_round_and_what_fails_is_published_soon(world):
    relay = a_relay(world)
    relay.publish_now(world.insert(2))
    assert world.got == ["0", "1"] and not world.rows["0"].published
    relay.work()
    assert world.rows["0"].published and world.got == ["0", "1"]
    world.broker_fails = "away"
    relay.publish_now(world.insert(1))
    world.broker_fails = ""
    world.now += 1
    relay.work()
    assert world.rows["2"].published
