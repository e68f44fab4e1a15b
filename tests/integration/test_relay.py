"""The outbox on a real PostgreSQL, and the publisher and the relay on a real RabbitMQ."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Queue
from sqlalchemy import Engine, create_engine, text

from services.kit.amqp.message import Message
from services.kit.amqp.publisher import PipelinedPublisher, Publisher, RefusedByBroker
from services.kit.amqp.transport import AmqpTransport
from services.kit.db.database import Autocommit
from services.kit.metrics import metrics_of
from services.kit.outbox.relay import REMOVE_BATCH, Relay
from services.kit.outbox.statements import lease_batch
from services.kit.tracing import Tracer
from services.local.net import wait_for
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.ops.migrate import upgrade
from tests.faults.test_draining import suspended

HEARTBEAT_S = 1
SETTINGS = SimpleNamespace(
    OUTBOX_BATCH=200,
    OUTBOX_INTERVAL_S=30.0,
    OUTBOX_LEASE_S=15.0,
    OUTBOX_GATHER_S=0,
    OUTBOX_KEEP_S=3600.0,
    PUBLISH_TIMEOUT_S=5.0,
    HEARTBEAT=HEARTBEAT_S,
)
TAKEN, UNROUTABLE, REFUSED = "order_paid", "order_dreamt_of", "x" * 300  # a routing key has 255 bytes at the most


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases(["orders"])
        upgrade("orders", server.url("orders"))
        engine = create_engine(server.url("orders"), pool_size=8)
        yield engine
        engine.dispose()


@pytest.fixture
def engine(postgres: Engine) -> Engine:
    with Autocommit(postgres) as connection:
        connection.execute(text("truncate outbox"))
    return postgres


@pytest.fixture
def queue(rabbitmq: RabbitMQ) -> Iterator[Any]:
    """A queue that takes the events of one type."""
    with Connection(rabbitmq.uri) as connection, connection.channel() as channel:
        queue = Queue(f"handler-{uuid4()}", Exchange("orders.events", "topic", durable=True), TAKEN)(channel)
        queue.declare()
        yield queue
        queue.delete()


def started(rabbitmq: RabbitMQ, cls: type[Publisher]) -> Any:
    publisher = cls()
    publisher.container = SimpleNamespace(
        tracer=Tracer(),
        settings=SETTINGS,
        config={"AMQP_URI": rabbitmq.uri},
        service_name="orders",
        metrics=metrics_of("unit"),
    )
    return publisher


@pytest.fixture
def publisher(rabbitmq: RabbitMQ) -> Iterator[Publisher]:
    publisher = started(rabbitmq, Publisher)
    yield publisher
    publisher.stop()


@pytest.fixture
def relay(rabbitmq: RabbitMQ, engine: Engine) -> Iterator[Relay]:
    transport = AmqpTransport()
    transport.publisher = started(rabbitmq, PipelinedPublisher)
    container = transport.container = transport.publisher.container
    yield Relay(container, cast(Any, SimpleNamespace(autocommit=lambda: Autocommit(engine))), transport)
    transport.publisher.stop()


def add(engine: Engine, number: int, type_: str = TAKEN, values: str = "null") -> None:
    with Autocommit(engine) as connection:
        connection.execute(
            text(
                f"""insert into outbox (event_id, type, body, published_at, created_at)
                select gen_random_uuid(), :type, '{{}}', {values}, now() - interval '2 hours'
                from generate_series(1, {number})"""
            ),
            {"type": type_},
        )


def waiting(engine: Engine) -> dict[str, int]:
    with Autocommit(engine) as connection:
        return {
            row.type: row.number
            for row in connection.execute(
                text("select type, count(*) as number from outbox where published_at is null group by type")
            )
        }


def test_the_message_of_an_event_has_the_id_of_the_event(relay, engine, queue):
    add(engine, 1)
    relay.work()
    with Autocommit(engine) as connection:
        event_id = connection.scalar(text("select event_id from outbox where published_at is not null"))
    assert queue.get(no_ack=True).properties["message_id"] == str(event_id)


def test_two_hundred_and_more_unroutable_events_do_not_starve_those_behind(relay, engine, queue):
    add(engine, 450, UNROUTABLE)
    add(engine, 5)
    relay.work()
    assert waiting(engine) == {UNROUTABLE: 450}
    with Autocommit(engine) as connection:
        assert connection.scalar(text("select count(*) from outbox where claimed_until > now()")) >= 450
        assert lease_batch(connection, 10, 15) == [], "they are not looked at again at once"


def test_an_event_that_the_broker_refuses_does_not_hold_up_the_others(relay, engine, queue):
    add(engine, 10)
    add(engine, 1, REFUSED)
    add(engine, 10)
    relay.work()
    assert waiting(engine) == {REFUSED: 1}
    assert queue.queue_declare(passive=True).message_count >= 20


def test_old_events_are_removed_behind_any_number_of_stuck_ones(relay, engine):
    add(engine, REMOVE_BATCH + 500)  # stuck
    add(engine, REMOVE_BATCH + 300, values="now() - interval '2 hours'")  # old
    add(engine, 7, values="now()")  # published just now
    relay._remove_old()
    with Autocommit(engine) as connection:
        assert connection.scalar(text("select count(*) from outbox")) == REMOVE_BATCH + 500 + 7
        connection.execute(text("update outbox set published_at = now() - interval '2 hours'"))
    relay._remove_old()
    with Autocommit(engine) as connection:
        assert connection.scalar(text("select count(*) from outbox")) == 0


def test_a_lease_leaves_out_what_another_transaction_holds(engine):
    add(engine, 3)
    with engine.begin() as other:
        held = other.scalar(text("select event_id from outbox order by id limit 1 for update"))
        with ThreadPoolExecutor(1) as pool, Autocommit(engine) as connection:
            connection.execute(text("set statement_timeout = '3 s'"))
            taken = pool.submit(lease_batch, connection, 10, 15).result(timeout=10)
    assert len(taken) == 2 and str(held) not in [event.event_id for event in taken]


@pytest.mark.parametrize(
    "message, why",
    [
        (Message({}, Exchange("orders.events", "fanout"), "x"), "PRECONDITION_FAILED|inequivalent"),
        (Message({}, Exchange("never.declared", "topic", no_declare=True), "x"), "NOT_FOUND|no exchange"),
        (Message({}, Exchange("orders.events", "topic"), REFUSED), "does not fit"),
    ],
)
def test_what_the_broker_refuses_for_good_is_no_outage_and_the_next_message_goes(publisher, queue, message, why):
    with pytest.raises(RefusedByBroker, match=why):
        publisher.publish([message])
    assert publisher.publish([Message({"next": 1}, Exchange("orders.events", "topic"), TAKEN)]) == [True]
    assert json.loads(queue.get(no_ack=True).body) == {"next": 1}


def test_an_idle_connection_lives_by_its_heartbeats_and_a_silent_broker_is_noticed(rabbitmq, publisher, queue):
    good = Message({}, Exchange("orders.events", "topic"), TAKEN)
    assert publisher.publish([good]) == [True]
    channel = publisher._channel
    assert channel.connection.get_heartbeat_interval() == HEARTBEAT_S
    received = channel.connection.connection.bytes_recv

    def was_kept() -> bool:
        publisher.beat()
        return publisher._channel is channel and channel.connection.connection.bytes_recv >= received + 4

    wait_for(was_kept, 15, "four heartbeats of the broker")
    assert publisher.publish([good]) == [True]
    assert publisher._channel is channel, "the broker has not closed it"

    def was_dropped() -> bool:
        publisher.beat()
        return publisher._channel is None

    with suspended(rabbitmq.pid):
        wait_for(was_dropped, 15, "the idle connection to a frozen broker to be dropped")
