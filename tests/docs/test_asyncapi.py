"""docs/asyncapi.json describes what is on the broker."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from amqp.exceptions import NotFound
from kombu import Connection, Exchange, Message, Queue

from services.local.net import wait_for
from services.local.stack import Stack
from services.ops.asyncapi import document
from services.shop import STYLES
from tests.client import Api
from tests.docs.idl import ASYNCAPI, DOCS, load, validator

LETTER_S = 20
Json = Any


@pytest.fixture
def described() -> Json:
    return load(ASYNCAPI["broker"])


class Tap:
    """A queue of its own that gets a copy of everything that the described exchanges route."""

    def __init__(self, channel: Any, exchanges: set[str]) -> None:
        self.queue = Queue("", exclusive=True, auto_delete=True)(channel)
        self.queue.declare()
        for name in exchanges:
            self.queue.bind_to(name, "#")
        self.seen: list[Message] = []

    def messages(self) -> list[Message]:
        while (message := self.queue.get(no_ack=True)) is not None:
            self.seen.append(message)
        return self.seen

    def about(self, ids: set[str]) -> list[Message]:
        """Return the events and requests with one of `ids` in their values, and the replies to these requests."""
        chosen: list[Message] = []
        calls: set[str] = set()
        for message in self.messages():
            body = json.dumps(message.payload)
            call = message.properties.get("correlation_id")
            if call in calls or any(id_ in body for id_ in ids):
                chosen.append(message)
                calls |= {call} - {None}
        return chosen


@contextmanager
def tap(stack: Stack, described: Json) -> Iterator[Tap]:
    exchanges = {
        one["bindings"]["amqp"]["exchange"]["name"]
        for one in described["channels"].values()
        if one["bindings"]["amqp"]["is"] == "routingKey"
    }
    with Connection(stack.amqp_uri) as connection, connection.channel() as channel:
        yield Tap(channel, exchanges)


def names(described: Json, messages: list[Message]) -> list[str]:
    """Return the name under which each message is described; a reply is known by the request that it belongs to."""
    routes = {
        (one["bindings"]["amqp"]["exchange"]["name"], one["address"]): list(one["messages"])
        for one in described["channels"].values()
        if one["bindings"]["amqp"]["is"] == "routingKey"
    }
    requests: dict[str, str] = {}
    found = []
    for message in messages:
        route = message.delivery_info["exchange"], message.delivery_info["routing_key"]
        call = message.properties.get("correlation_id")
        if call in requests:
            found.append(requests.pop(call).replace(".request", ".reply"))
        else:
            assert route in routes, f"not described: {route}"
            [name] = routes[route]
            found.append(name)
            if call:
                requests[call] = name
    return found


def test_batches_are_described_with_what_a_crash_leaves(described: Json) -> None:
    assert "in one transaction" not in document(STYLES["broker"])
    assert "transaction by itself" in described["operations"]["billing.serve.pay_all"]["description"]


def test_messages_of_users_and_orders_are_as_described(stack: Stack, api: Api, described: Json) -> None:
    with tap(stack, described) as tapped:
        user = api.new_user(1000)
        orders = [api.order(user["id"], price).json() for price in (300, 9000)]
        assert [one["status"] for one in orders] == ["paid", "rejected"]
        api.letters(user["id"], 2)
        ids = {user["id"], *(one["id"] for one in orders)}
        # two calls and an event for the user's part and each order's: three times request, reply, event
        wait_for(lambda: len(tapped.about(ids)) >= 9, LETTER_S, "the messages")
        messages = tapped.about(ids)
    found = names(described, messages)
    assert set(found) >= {
        "user_registered",
        "order_paid",
        "order_rejected",
        "billing.open_accounts.request",
        "billing.open_accounts.reply",
        "billing.pay_all.request",
        "billing.pay_all.reply",
    }
    modes = {
        reference["$ref"].rsplit("/", 1)[1]: operation["bindings"]["amqp"]["deliveryMode"]
        for operation in described["operations"].values()
        if operation["action"] == "send"
        for reference in operation["messages"]
    }
    for name, message in zip(found, messages, strict=True):
        schema = described["components"]["messages"][name]
        validator(described, schema["payload"]).validate(message.payload)
        assert message.content_type == schema["contentType"]
        assert message.properties["delivery_mode"] == modes.get(name, 1), name


def test_an_order_costs_the_messages_that_the_comparison_counts(stack: Stack, api: Api, described: Json) -> None:
    user = api.new_user(1000)
    with tap(stack, described) as tapped:
        order = api.order(user["id"], 300).json()
        api.letters(user["id"], 1)
        wait_for(lambda: len(tapped.about({order["id"]})) >= 3, LETTER_S, "the messages")
        counted = names(described, tapped.about({order["id"]}))
    assert sorted(counted) == ["billing.pay_all.reply", "billing.pay_all.request", "order_paid"]
    text = (DOCS / "comparison.md").read_text()
    row = re.search(r"^\| messages published to the broker, at most \|(.*)$", text, re.M)
    assert row is not None
    assert row[1].split("|")[1].strip().startswith(f"{len(counted)}:")


def test_described_exchanges_and_queues_are_there_with_these_properties(stack: Stack, described: Json) -> None:
    with Connection(stack.amqp_uri) as connection:
        for channel in described["channels"].values():
            amqp = channel["bindings"]["amqp"]
            for passive in (True, False):  # it is there; and with these properties, as the broker refuses others
                with connection.channel() as at_broker:
                    if amqp["is"] == "queue":
                        queue_of(amqp["queue"])(at_broker).queue_declare(passive=passive)
                    else:
                        exchange_of(amqp["exchange"])(at_broker).declare(passive=passive)


def test_what_is_not_described_is_not_there(stack: Stack) -> None:
    with Connection(stack.amqp_uri) as connection, connection.channel() as at_broker, pytest.raises(NotFound):
        Queue("rpc-orders")(at_broker).queue_declare(passive=True)


def exchange_of(amqp: Json) -> Any:
    return Exchange(amqp["name"], type=amqp["type"], durable=amqp["durable"], auto_delete=amqp["autoDelete"])


def queue_of(amqp: Json) -> Any:
    return Queue(amqp["name"], durable=amqp["durable"], exclusive=amqp["exclusive"], auto_delete=amqp["autoDelete"])
