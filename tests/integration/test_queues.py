"""Queues of either type: what a service does when one is of the other type, and changing that without a loss."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import PreconditionFailed
from kombu import Connection, Exchange, Queue

from services.kit.amqp import moving
from services.kit.amqp.moving import CannotMove, hold, move
from services.kit.amqp.queues import arguments_of
from services.local.net import wait_for
from services.local.stack import Stack
from services.ops.queues import queues_of
from services.shop import STYLES
from tests.broker import channel
from tests.client import Api
from tests.commands import nameko_hw

NAME, EXCHANGE, KEY = "evt-test", "test.events", "tested"
COUNT = 7


class Killed(BaseException):
    """Nothing more is done, as after `kill -9`."""


@pytest.fixture
def connection(stack: Stack) -> Iterator[Connection]:
    with Connection(stack.amqp_uri) as one:
        yield one
    with channel(stack) as at_broker:
        for name in (NAME, NAME + moving.SUFFIX):
            at_broker.queue_delete(name)
        at_broker.exchange_delete(EXCHANGE)


def queue(type_: Any) -> Queue:
    return Queue(NAME, Exchange(EXCHANGE, "topic"), KEY, queue_arguments=arguments_of(type_))


def waiting(connection: Connection) -> int:
    with connection.channel() as one:
        return int(one.queue_declare(NAME, passive=True).message_count)


def fill(connection: Connection) -> None:
    """Send COUNT messages, and return when the queue has them."""
    there = waiting(connection)
    with connection.Producer() as producer:
        for number in range(COUNT):
            producer.publish(
                f"body {number}".encode(),
                exchange=EXCHANGE,
                routing_key=KEY,
                content_type="application/x-test",
                content_encoding="binary",
                headers={"number": number},
                delivery_mode=2,
                message_id=str(number),
            )
    wait_for(lambda: waiting(connection) == there + COUNT, 10, "the new messages")


def content(connection: Connection) -> dict[str, tuple[Any, ...]]:
    """Return what is in the queue, and leave it there."""
    with connection.channel() as one:
        one.auto_decode = False
        found = list(moving._get(one, NAME))
    wait_for(lambda: waiting(connection) == len(found), 10, "the messages to be back")
    return {m.properties["message_id"]: (bytes(m.body), m.content_type, m.headers["number"]) for m in found}


ALL = {str(number): (f"body {number}".encode(), "application/x-test", number) for number in range(COUNT)}


@pytest.mark.parametrize("types", [("classic", "quorum"), ("quorum", "classic")])
def test_a_queue_gets_another_type_and_keeps_its_messages_and_its_binding(connection, types, monkeypatch):
    monkeypatch.setattr(moving, "BATCH", 3)
    before, after = types
    assert move(connection, queue(before)) is None
    fill(connection)
    assert move(connection, queue(after)) == COUNT
    monkeypatch.setattr(moving, "BATCH", 100)
    assert content(connection) == ALL
    assert move(connection, queue(after)) is None
    fill(connection)  # it is bound


def test_a_move_that_is_killed_anywhere_is_finished_by_the_next(stack: Stack, connection, monkeypatch):
    """Before and after each step that the broker sees."""
    monkeypatch.setattr(moving, "BATCH", 3)
    monkeypatch.setattr(moving, "RETURNED_S", 0.05)
    steps = 0
    for point in range(200):
        move(connection, queue("classic"))
        with connection.channel() as one:
            one.queue_purge(NAME)
        fill(connection)
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if done > point:
                raise Killed

        victim = Connection(stack.amqp_uri)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_declare", "_exists", "_take_out_of_use", "_carry", "_copy"):
                patch.setattr(moving, name, counted(getattr(moving, name), count))
            patch.setattr(moving.ConfirmedChannel, "publish", counted(moving.ConfirmedChannel.publish, count))
            try:
                hold(victim)
                move(victim, queue("quorum"))
                steps = done
            except Killed:
                pass
            finally:
                victim.collect()
        if steps:
            break
        with Connection(stack.amqp_uri) as next_one:
            hold(next_one)
            move(next_one, queue("quorum"))
        with connection.channel() as one:
            assert not moving._exists(connection, NAME + moving.SUFFIX)
            assert one.queue_declare(NAME, passive=True).message_count >= COUNT
        assert content_of_all(connection) == ALL, point
    assert steps > 20


def content_of_all(connection: Connection) -> dict[str, tuple[Any, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving, "BATCH", 100)
        return content(connection)


def counted(work: Any, count: Any) -> Any:
    """Return what does `work`, and may be killed before it and after it."""

    def do(*args: Any, **kwargs: Any) -> Any:
        count()
        result = work(*args, **kwargs)
        count()
        return result

    return do


def test_messages_that_a_dead_process_has_taken_are_not_deleted_with_their_queue(stack, connection, monkeypatch):
    """The broker has not noticed its death: a machine was lost, or cut off."""
    monkeypatch.setattr(moving, "FREE_S", 0.3)
    move(connection, queue("classic"))
    fill(connection)
    dead = Connection(stack.amqp_uri)
    hold(dead)
    assert dead.channel().basic_get(NAME).body == b"body 0"
    with pytest.raises(CannotMove, match="somebody else moves queues"):
        hold(connection)
    dead.collect()  # now it notices
    hold(connection)
    assert move(connection, queue("quorum")) == COUNT
    assert content(connection) == ALL


def test_the_command_moves_nothing_while_somebody_else_does(stack: Stack, monkeypatch):
    monkeypatch.setattr(moving, "FREE_S", 0)
    with Connection(stack.amqp_uri) as connection:
        hold(connection)
        moved = nameko_hw(stack, "queues", "move")
    assert (moved.returncode, moved.stdout) == (1, "")
    assert re.fullmatch("nameko-hw: somebody else moves queues, .*\n", moved.stderr)


def test_a_queue_that_somebody_consumes_from_is_not_moved(stack: Stack, monkeypatch):
    monkeypatch.setattr(moving, "FREE_S", 0)
    with Connection(stack.amqp_uri) as connection:
        [rpc] = [one.queue for one in queues_of(STYLES["broker"], "quorum") if one.queue.name == "rpc-billing"]
        with pytest.raises(CannotMove, match="rpc-billing is in use: stop the services first"):
            move(connection, rpc, keeps=False)


def test_the_queues_are_declared_as_the_services_declare_them(stack: Stack):
    with Connection(stack.amqp_uri) as connection:
        for one in queues_of(stack.style, "classic"):
            assert move(connection, one.queue) is None


def test_a_service_whose_queue_is_of_another_type_says_so_and_goes_on_when_that_is_mended(stack: Stack):
    [rpc] = [one.queue for one in queues_of(STYLES["broker"], "quorum") if one.queue.name == "rpc-users"]
    log = stack.folder / "logs" / "users.log"
    with Connection(stack.amqp_uri) as connection, Api(f"http://127.0.0.1:{stack.ports['users'][0]}") as users:
        wait_for(lambda: replaced(connection, rpc), 15, "a queue of another type")
        wait_for(lambda: state(users) == "refusing", 15, "the service to notice")
        assert users.get("/health/ready").status_code == 200
        assert 'nameko_hw_broker_up{service="users"} 0.0' in users.get("/metrics").text
        assert "inequivalent arg 'x-queue-type' for queue 'rpc-users'" in log.read_text()
        assert move(connection, rpc_classic(), keeps=False) == 0
        wait_for(lambda: state(users) == "up", 15, "the service to go on")
        assert 'nameko_hw_broker_up{service="users"} 1.0' in users.get("/metrics").text


def replaced(connection: Connection, by: Queue) -> bool:
    """Delete a queue and declare it anew; return False if its service was faster, which declares it too."""
    try:
        with connection.channel() as one:
            one.queue_delete(by.name)
            by.bind(one).declare()
    except PreconditionFailed:
        return False
    return True


def rpc_classic() -> Queue:
    return next(one.queue for one in queues_of(STYLES["broker"], "classic") if one.queue.name == "rpc-users")


def state(api: Api) -> Any:
    return api.get("/health/ready").json().get("broker")
