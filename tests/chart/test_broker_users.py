"""What each service's user may do at a RabbitMQ with the users of the chart: every pair is tried, on a real node."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import amqp
import pytest

from services.contracts import EVENTS
from services.local.rabbitmq import RabbitMQ
from services.shop import SERVICES
from tests.chart import test_servers
from tests.chart.test_servers import broker

node = test_servers.rabbitmq  # the fixture

REPLY = str(uuid4())
CALLS = {
    f"{service}.{method}"
    for service in SERVICES
    for method in ("open_account", "open_accounts", "pay", "pay_all", "refuse", "get_account", "known_users", "recover")
}
EVENT_KEYS = {event.TYPE for event in EVENTS}
KEYS = {*CALLS, *EVENT_KEYS, *(f"{service}.*" for service in SERVICES), REPLY, "#", "*.*", "billing.pay.x", ""}
BINDING_KEYS = KEYS - CALLS | {"billing.pay", "users.known_users"}
QUEUES = {
    "rpc-users": "users",
    "rpc-billing": "billing",
    "rpc-orders": None,
    f"rpc.reply-users-{REPLY}": "users",
    f"rpc.reply-orders-{REPLY}": "orders",
    f"rpc.reply-billing-{REPLY}": None,
    "amq.anything": None,
    "evt-users-user_registered--notifications.on_it": "notifications",
    "evt-orders-order_paid--notifications.on_it": "notifications",
    "evt-orders-order_paid--billing.on_it": None,
    "evt-orders-order_placed--billing.on_it": "billing",
    "evt-users-user_registered--billing.on_it": "billing",
    "evt-billing-account_opened--users.on_it": "users",
    "evt-billing-account_opened--orders.on_it": None,
    "evt-billing-payment_accepted--orders.on_it": "orders",
    "evt-billing-payment_refused--notifications.on_it": "notifications",
}
EXCHANGES = {"nameko-rpc", "users.events", "orders.events", "billing.events", "amq.topic", "amq.direct", ""}

#: All that a user may publish, as exchange and routing key. The default exchange is nobody's.
MAY_PUBLISH = {
    "users": {
        ("users.events", "user_registered"),
        ("nameko-rpc", "billing.open_account"),
        ("nameko-rpc", "billing.open_accounts"),
        ("nameko-rpc", REPLY),
    },
    "orders": {
        ("orders.events", "order_placed"),
        ("orders.events", "order_paid"),
        ("orders.events", "order_rejected"),
        ("nameko-rpc", "billing.pay"),
        ("nameko-rpc", "billing.pay_all"),
        ("nameko-rpc", "billing.refuse"),
        ("nameko-rpc", "users.known_users"),
    },
    "billing": {
        ("nameko-rpc", REPLY),
        ("billing.events", "account_opened"),
        ("billing.events", "payment_accepted"),
        ("billing.events", "payment_refused"),
    },
    "notifications": set(),
}
#: All by which a user may bind its own queues; nobody may bind another's.
MAY_BIND = {
    "users": {("nameko-rpc", "users.*"), ("nameko-rpc", REPLY), ("billing.events", "account_opened")},
    "orders": {
        ("nameko-rpc", REPLY),
        ("billing.events", "payment_accepted"),
        ("billing.events", "payment_refused"),
    },
    "billing": {
        ("nameko-rpc", "billing.*"),
        ("users.events", "user_registered"),
        ("orders.events", "order_placed"),
    },
    "notifications": {
        (exchange, key) for exchange in ("users.events", "orders.events", "billing.events") for key in BINDING_KEYS
    },
}


@pytest.fixture(scope="module")
def topology(node: RabbitMQ) -> Iterator[None]:
    """Every exchange and queue that somebody might reach for."""
    with broker(node, "admin") as connection:
        channel = connection.channel()
        for exchange in EXCHANGES - {"", "amq.topic", "amq.direct"}:
            channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
        for queue in set(QUEUES) - {"amq.anything"}:
            channel.queue_declare(queue, durable=True, auto_delete=False)
        yield
        for queue in QUEUES:
            channel.queue_delete(queue)


def allowed(node: RabbitMQ, user: str, tries: Mapping[Any, Callable[..., object]]) -> set[Any]:
    """Which of `tries` the broker lets `user` do; everything else has to be refused with 403."""
    done = set()
    with broker(node, user) as connection:
        for what, attempt in tries.items():
            channel = connection.connection.channel()
            channel.confirm_select()
            try:
                attempt(channel)
                done.add(what)
                channel.close()
            except amqp.AccessRefused:
                pass
    return done


def publish(exchange: str, routing_key: str) -> Callable[[amqp.Channel], object]:
    return lambda channel: channel.basic_publish_confirm(amqp.Message("{}"), exchange, routing_key)


@pytest.mark.parametrize("user", SERVICES)
def test_a_user_publishes_only_to_its_own_exchange_and_to_whom_it_calls(topology, node: RabbitMQ, user: str):
    tries = {(exchange, key): publish(exchange, key) for exchange in EXCHANGES for key in KEYS | set(QUEUES)}
    assert allowed(node, user, tries) == MAY_PUBLISH[user]


@pytest.mark.parametrize("user", SERVICES)
def test_a_user_binds_only_its_own_queues_and_only_by_its_own_keys(topology, node: RabbitMQ, user: str):
    def bind(queue: str, exchange: str, key: str) -> Callable[[amqp.Channel], object]:
        return lambda channel: channel.queue_bind(queue, exchange, key)

    tries = {
        (queue, exchange, key): bind(queue, exchange, key)
        for queue in set(QUEUES) - {"amq.anything"}
        for exchange in EXCHANGES - {""}
        for key in BINDING_KEYS
    }
    mine = {queue for queue, owner in QUEUES.items() if owner == user}
    assert allowed(node, user, tries) == {(queue, *by) for queue in mine for by in MAY_BIND[user]}


@pytest.mark.parametrize("user", SERVICES)
def test_a_user_reads_declares_and_empties_only_its_own_queues(topology, node: RabbitMQ, user: str):
    mine = {queue for queue, owner in QUEUES.items() if owner == user}
    there = set(QUEUES) - {"amq.anything"}
    for attempt in ("basic_consume", "basic_get", "queue_purge"):
        tries = {queue: lambda channel, queue=queue: getattr(channel, attempt)(queue) for queue in there}
        assert allowed(node, user, tries) == mine, attempt
    tries = {
        queue: lambda channel, queue=queue: channel.queue_declare(queue, durable=True, auto_delete=False)
        for queue in QUEUES
    }
    assert allowed(node, user, tries) == mine
    tries = {
        target: lambda channel, target=target: channel.queue_declare(
            sorted(mine)[0] + "-x", arguments={"x-dead-letter-exchange": target}
        )
        for target in ("", "amq.topic")
    }
    assert allowed(node, user, tries) == set(), "what it may not publish, it may not have dead-lettered"


@pytest.mark.parametrize(
    "user, declares",
    [
        ("users", {"nameko-rpc", "users.events", "billing.events"}),
        ("orders", {"nameko-rpc", "orders.events", "billing.events"}),
        ("billing", {"nameko-rpc", "users.events", "orders.events", "billing.events"}),
        ("notifications", {"users.events", "orders.events", "billing.events"}),
    ],
)
def test_a_user_declares_only_the_exchanges_that_it_uses(topology, node: RabbitMQ, user: str, declares: set[str]):
    tries = {
        one: lambda channel, one=one: channel.exchange_declare(one, "topic", durable=True, auto_delete=False)
        for one in EXCHANGES - {"", "amq.topic", "amq.direct"}
    }
    assert allowed(node, user, tries) == declares
