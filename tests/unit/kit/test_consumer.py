"""A consumer gives up its connection when it is lost or silent, whoever notices that first."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from amqp.exceptions import PreconditionFailed, RecoverableConnectionError
from eventlet import Timeout
from eventlet.event import Event
from kombu.mixins import ConsumerMixin

from services.kit.amqp import consumer as module
from services.kit.amqp.consumer import ASK_AFTER, LEAVE_AFTER, QueueConsumer
from services.kit.amqp.nodes import NodeSilent


class Channel(SimpleNamespace):
    """A channel that counts what it sends."""

    sent = 0

    def send_method(self, *_: object) -> None:
        self.sent += 1


class Provider:
    """What takes messages."""

    queue = "its queue"
    handle_message = print


class Consumer:
    """A consumer that knows whether it was cancelled."""

    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def qos(self, prefetch_count: int) -> None:
        pass


def consumer_on(connection: object, amqp_uri: str = "amqp://one") -> Any:
    consumer: Any = QueueConsumer()
    consumer.container = SimpleNamespace(
        accept=["json"],
        config={"AMQP_URI": amqp_uri},
        settings=SimpleNamespace(EVENT_BATCH=10, max_workers=5, PUBLISH_TIMEOUT_S=0.05),
    )
    consumer._channel = Channel(connection=connection)
    consumer._providers.add("a provider")
    consumer._consumers = {"a provider": Consumer()}
    return consumer


@pytest.mark.parametrize("connection", [None, SimpleNamespace(connected=False)])
def test_a_lost_connection_is_given_up_rather_than_waited_on(connection: object):
    """kombu would open another one in its place, on which nothing is consumed."""
    with pytest.raises(RecoverableConnectionError):
        consumer_on(connection).on_iteration()


@pytest.mark.parametrize("connection", [SimpleNamespace(connected=True), "that of the memory transport"])
def test_on_a_good_one_it_goes_on(connection: object):
    consumer = consumer_on(connection)
    for _ in range(2 * LEAVE_AFTER):
        consumer.on_iteration()
    assert not consumer.should_stop


def test_a_provider_that_went_while_we_connected_is_consumed_for_no_longer():
    consumer = consumer_on(SimpleNamespace(connected=True))
    [its_consumer] = consumer._consumers.values()
    consumer.unregister_provider("a provider")
    consumer.on_iteration()
    assert its_consumer.is_cancelled and not consumer.should_stop
    consumer._workers_are_done = True
    consumer.on_iteration()
    assert consumer.should_stop


def test_a_broker_that_is_silent_does_not_keep_a_service_that_stops():
    consumer = consumer_on(SimpleNamespace(connected=True))
    [its_consumer] = consumer._consumers.values()
    its_consumer.cancel = lambda: eventlet.sleep(10)
    removed = consumer._pending_remove_providers["a provider"] = Event()
    with pytest.raises(NodeSilent), Timeout(5):
        consumer.on_iteration()
    assert removed.ready()


def test_a_provider_may_go_while_the_queues_are_declared():
    consumer = consumer_on(SimpleNamespace(connected=True))
    consumer._providers.clear()
    a, *_ = all_ = [Provider() for _ in range(3)]
    consumer._providers.update(all_)
    declared: list[Any] = []

    def declare(**_: Any) -> Any:
        declared.append(Consumer())
        if len(declared) == 1:
            consumer.unregister_provider(a)
        return declared[-1]

    consumer.get_consumers(declare, Channel(connection=SimpleNamespace(connected=True)))
    assert len(declared) == 3
    consumer.on_iteration()
    assert sum(one.is_cancelled for one in declared) == 1 and set(consumer._consumers) == set(all_[1:])


def test_one_that_the_broker_refuses_ends_when_it_is_to_stop(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Iterator[None]:
        raise PreconditionFailed("the queue is of another type")
        yield

    monkeypatch.setattr(ConsumerMixin, "consume", refuse)
    monkeypatch.setattr(module, "RECONNECT_S", 0)
    consumer = consumer_on(None)
    consumer.watch = SimpleNamespace(note_refusal=lambda error: None)
    removed = consumer._pending_remove_providers["a provider"] = Event()
    assert list(consumer.consume()) == []
    assert removed.ready() and not consumer.should_stop
    consumer._workers_are_done = True
    late = Event()
    monkeypatch.setattr(
        module.eventlet, "sleep", lambda s: consumer._pending_remove_providers.update({"another one": late})
    )
    assert list(consumer.consume()) == []
    assert consumer.should_stop and late.ready()


def test_one_of_several_nodes_that_is_silent_is_asked_for_an_answer_then_left():
    consumer = consumer_on(SimpleNamespace(connected=True, bytes_recv=1), "amqp://one;amqp://two")
    for _ in range(LEAVE_AFTER):
        consumer.on_iteration()
    assert consumer._channel.sent == 1
    with pytest.raises(RecoverableConnectionError):
        consumer.on_iteration()


def test_one_that_has_nothing_to_deliver_but_answers_is_not_left():
    connection = SimpleNamespace(connected=True, bytes_recv=0)
    consumer = consumer_on(connection, "amqp://one;amqp://two")
    for _ in range(10):
        connection.bytes_recv = 1 + consumer._channel.sent
        consumer.on_iteration()
    answered = 5 * LEAVE_AFTER
    for _ in range(answered):
        connection.bytes_recv = 1 + consumer._channel.sent
        consumer.on_iteration()
    assert consumer._channel.sent > answered // (ASK_AFTER + 2)
