"""The publisher with a simulated broker: what is sent again, what is not, and which messages count as taken."""

import struct
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from amqp.exceptions import AccessRefused, ConnectionForced, NotAllowed
from kombu import Exchange
from prometheus_client import REGISTRY

from services.kit.amqp import nodes
from services.kit.amqp import publisher as publisher_module
from services.kit.amqp.message import Message
from services.kit.amqp.publisher import ConfirmedChannel, PipelinedPublisher, Publisher, RefusedByBroker
from services.kit.errors import Unavailable
from services.kit.metrics import metrics_of

EXCHANGE = Exchange("orders.events", "topic", no_declare=True)
SETTINGS = SimpleNamespace(PUBLISH_TIMEOUT_S=0.2, HEARTBEAT=20)


class Broker:
    """A fake of kombu's connections. `does` holds what the broker does, one item for each time that it is read."""

    def __init__(self) -> None:
        self.does: list[Callable[[Any], object]] = []
        self.refuses: Exception | None = None
        self.bodies: list[str] = []
        self.ids: list[str] = []
        self.sent: list[tuple[int, bool]] = []  # delivery mode and mandatory
        self.connects = 0

    def __call__(self, uri: str, **options: Any) -> "Connection":
        self.connects += 1
        return Connection(self)


class Connection:
    supports_heartbeats = True
    hostname = "broker"
    connection = None  # no sockets

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.events: dict[str, set[Any]] = defaultdict(set)
        self.beats = 0

    def ensure_connection(self, **_: Any) -> None:
        if self.broker.refuses:
            raise self.broker.refuses

    def channel(self) -> "Connection":
        return self

    def confirm_select(self) -> None:
        pass

    def prepare_message(
        self, body: Any, _: Any, content_type: str, encoding: str, headers: Any, properties: Any
    ) -> Any:
        return SimpleNamespace(body=body, properties=properties)

    def basic_publish(self, message: Any, mandatory: bool, **_: Any) -> None:
        if message.properties["message_id"] == "too long":
            raise struct.error("ubyte format requires 0 <= number <= 255")
        self.broker.bodies.append(message.body)
        self.broker.ids.append(message.properties["message_id"])
        self.broker.sent.append((message.properties["delivery_mode"], mandatory))

    def drain_events(self, timeout: float) -> None:
        if not self.broker.does:
            raise TimeoutError
        self.broker.does.pop(0)(self)

    def heartbeat_check(self) -> None:
        self.beats += 1

    def collect(self) -> None:
        pass


def ack(tag: int, multiple: bool = False) -> Callable[[Connection], object]:
    return lambda connection: [tell(tag, multiple) for tell in connection.events["basic_ack"]]


def nack(tag: int, multiple: bool = False) -> Callable[[Connection], object]:
    return lambda connection: [tell(tag, multiple) for tell in connection.events["basic_nack"]]


def unroutable(message_id: str) -> Callable[[Connection], object]:
    returned = SimpleNamespace(properties={"message_id": message_id})
    return lambda connection: [tell(None, "", "", returned) for tell in connection.events["basic_return"]]


def fail(error: Exception) -> Callable[[Connection], None]:
    def raise_it(_: Connection) -> None:
        raise error

    return raise_it


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(nodes, "Connection", broker)
    return broker


def started(cls: type[Publisher] = PipelinedPublisher) -> Any:
    publisher = cls()
    publisher.container = SimpleNamespace(
        settings=SETTINGS, config={"AMQP_URI": "amqp://"}, service_name="unit", metrics=metrics_of("unit")
    )
    return publisher


def message(body: Any, message_id: str | None = None) -> Message:
    return Message(body, EXCHANGE, "order_paid", properties={"message_id": message_id} if message_id else {})


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("unit_broker_refusals_total", {"service": "unit", "reason": reason}) or 0


def test_a_message_has_the_id_that_it_was_given_or_one_of_its_own(broker):
    broker.does = [ack(3, multiple=True)]
    assert started().publish([message(1, "event-1"), message(2), message(3)]) == [True] * 3
    assert broker.ids[0] == "event-1"
    assert len(set(broker.ids)) == 3


def test_a_message_survives_the_broker_unless_it_says_otherwise_and_must_reach_a_queue(broker):
    broker.does = [ack(2, multiple=True)]
    started().publish([message(1), Message(2, EXCHANGE, properties={"delivery_mode": 1})])
    assert broker.sent == [(2, True), (1, True)]


@pytest.mark.parametrize(
    "does, taken",
    [
        ([ack(1), ack(2), ack(3)], [True, True, True]),
        ([ack(2, multiple=True), ack(3)], [True, True, True]),
        ([nack(2), ack(3), ack(1)], [True, False, True]),
        ([nack(2, multiple=True), ack(3)], [False, False, True]),
        ([unroutable("b"), ack(3, multiple=True)], [True, False, True]),
        ([unroutable("a"), unroutable("c"), ack(1), ack(2), ack(3)], [False, True, False]),
    ],
)
def test_each_message_is_taken_or_refused_by_itself(broker, does, taken):
    channel = ConfirmedChannel(broker("amqp://"))
    broker.does = does
    assert channel.publish([message(1, "a"), message(2, "b"), message(3, "c")], 1) == taken
    broker.does = [ack(4)]
    assert channel.publish([message(4, "b")], 1) == [True], "what became of an older message is forgotten"


def test_the_same_event_twice_in_flight_is_reported_twice(broker):
    channel = ConfirmedChannel(broker("amqp://"))
    broker.does = [unroutable("a"), unroutable("a"), ack(2, multiple=True)]
    assert channel.publish([message(1, "a"), message(1, "a")], 1) == [False, False]


def test_after_a_nack_the_next_messages_take_another_connection(broker):
    """RabbitMQ 3.10 nacks for ever on a channel that has met a quorum queue while that had no leader."""
    publisher = started()
    broker.does = [nack(1), ack(1)]
    assert publisher.publish([message(1)]) == [False]
    assert publisher.publish([message(2)]) == [True]
    assert broker.connects == 2


def test_what_is_sent_on_a_connection_that_died_while_idle_is_sent_again(broker):
    publisher = started()
    broker.does = [ack(1)]
    assert publisher.publish([message(1)]) == [True]
    broker.does = [fail(ConnectionForced()), ack(1)]
    assert publisher.publish([message(2)]) == [True]
    assert (broker.bodies, broker.connects) == (["1", "2", "2"], 2)


def test_what_was_in_flight_when_the_connection_died_is_not_sent_again(broker):
    publisher = started()
    publisher.send([message(1)])
    broker.does = [fail(ConnectionForced())]
    with pytest.raises(Unavailable):
        publisher.publish([message(2)])
    assert (broker.bodies, broker.connects) == (["1", "2"], 1)
    publisher.send([message(3)])
    broker.does = [ack(1)]
    assert publisher.wait_for_confirms() == [True], "the new channel reports its own message only"


def test_a_confirm_that_does_not_come_ends_the_connection(broker):
    publisher = started()
    with pytest.raises(Unavailable, match="did not confirm"):
        publisher.publish([message(1)])
    broker.does = [ack(1)]
    assert publisher.publish([message(2)]) == [True]
    assert broker.connects == 2


def test_a_refusal_is_no_outage_and_is_counted_and_logged_once(broker, caplog):
    publisher, before = started(), refusals("AccessRefused")
    for _ in range(3):
        broker.does = [fail(AccessRefused("access to topic refused"))]
        with pytest.raises(RefusedByBroker):
            publisher.publish([message(1)])
    assert refusals("AccessRefused") == before + 3
    assert [(one.levelname, "access to topic refused" in one.getMessage()) for one in caplog.records] == [
        ("ERROR", True)
    ]
    assert broker.bodies == ["1"] * 3, "it is not sent again on a new connection"


def test_a_login_that_is_refused_is_not_tried_by_every_request(broker, caplog):
    publisher = started()
    broker.refuses = NotAllowed("vhost not found")
    for _ in range(5):
        with pytest.raises(RefusedByBroker):
            publisher.publish([message(1)])
    assert broker.connects == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("body, header, why", [({3}, "x", "cannot be JSON"), (3, "too long", "does not fit")])
def test_what_cannot_be_encoded_is_refused_and_the_connection_is_used_no_more(broker, caplog, body, header, why):
    """The confirms of messages in flight could not be told from those of later messages."""
    publisher = started()
    publisher.send([message(1)])
    with pytest.raises(RefusedByBroker, match=why):
        publisher.send([message(2), message(body, header)])
    broker.does = [ack(1)]
    assert publisher.publish([message(4)]) == [True]
    assert broker.connects == 2
    assert len(caplog.records) == 1


def test_an_idle_connection_has_heartbeats_and_is_dropped_when_it_has_died(broker, caplog):
    publisher = started()
    publisher.beat()
    assert broker.connects == 0, "there is no connection to keep alive"
    broker.does = [ack(1)]
    publisher.publish([message(1)])
    connection = publisher._channel.connection
    publisher.beat()
    assert connection.beats == 1
    broker.does = [fail(OSError("closed"))]
    publisher.beat()
    assert publisher._channel is None
    broker.does = [ack(1)]
    assert publisher.publish([message(2)]) == [True]
    assert broker.bodies == ["1", "2"]


def test_a_heartbeat_takes_no_confirm_of_what_is_in_flight(broker):
    publisher = started()
    publisher.send([message(1)])
    broker.does = [fail(OSError("closed"))]
    publisher.beat()
    assert publisher._channel is not None and broker.does
    broker.does = [ack(1)]
    assert publisher.wait_for_confirms() == [True]


def test_heartbeats_are_sent_by_a_thread_of_the_container(broker, monkeypatch):
    publisher, pauses = started(Publisher), []
    publisher.container.spawn_managed_thread = lambda work, identifier: pauses.append(eventlet.spawn(work))
    real_sleep = eventlet.greenthread.sleep
    monkeypatch.setattr(publisher_module.eventlet, "sleep", lambda seconds: pauses.append(seconds) or real_sleep(0))
    publisher.start()
    real_sleep(0)
    thread, pause_s = pauses[:2]
    thread.kill()
    assert pause_s == SETTINGS.HEARTBEAT / 4
