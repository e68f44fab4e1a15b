"""RPC between versions: what an older or newer caller sends, and how a caller treats any answer."""

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import eventlet
import pytest
import yaml
from kombu import Connection, Exchange, Queue
from nameko.cli.main import setup_yaml_parser
from nameko.exceptions import MethodNotFound, RemoteError, serialize
from prometheus_client import REGISTRY

from services.contracts import AccountNotFound, Amount, OperationMismatch, Payment
from services.kit.amqp.rpc import RpcConsumer, RpcFailed, RpcProxy, RpcUnavailable, result_of, rpc
from services.kit.container import Container
from services.kit.errors import InvalidArgument, NotNow, Unavailable
from services.kit.tracing import NO_SPAN, Tracer
from services.local import broker
from services.local.stack import ROOT

TIMEOUT_S = 2
EXCHANGE = Exchange("nameko-rpc", "topic", durable=True)


class ShopService:
    """Serves RPCs of this version."""

    name = "shop"

    @rpc
    def double(self, number: Amount) -> int:
        return 2 * number

    @rpc
    def total(self, payments: list[Payment]) -> int:
        return sum(payment.amount for payment in payments)

    @rpc
    def refuse(self) -> None:
        raise AccountNotFound("Ada")

    @rpc
    def fail(self) -> None:
        raise ZeroDivisionError

    @rpc
    def name_a_set(self) -> Any:
        return {1}


class CallerService:
    """Calls the shop, and a stranger whose answers the tests write."""

    name = "caller"
    shop = RpcProxy("shop")
    stranger = RpcProxy("stranger")


def start(service: type) -> Any:
    setup_yaml_parser()
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    container = Container(
        service, {**config, "AMQP_URI": broker.URI, "WEB_SERVER_ADDRESS": None, "RPC_TIMEOUT_S": TIMEOUT_S}
    )
    container.start()
    return container


@pytest.fixture(scope="module")
def caller() -> Iterator[Any]:
    """A worker of CallerService, with its containers."""
    containers = [start(ShopService), start(CallerService)]
    context = SimpleNamespace(context_data={}, container=containers[1])
    context.proxies = {one.attr_name: one for one in containers[1].dependencies}
    yield SimpleNamespace(
        proxies=context.proxies, **{name: proxy.get_dependency(context) for name, proxy in context.proxies.items()}
    )
    for container in containers:
        container.stop()


def counted(method: str, outcome: str) -> float:
    labels = {"service": "caller", "method": method, "outcome": outcome}
    return REGISTRY.get_sample_value("shop_rpc_seconds_count", labels) or 0


def payment(**further: Any) -> dict[str, Any]:
    return {"operation_id": str(uuid4()), "user_id": str(uuid4()), "amount": 3, **further}


def test_what_a_newer_caller_sends_besides_is_ignored(caller):
    assert caller.shop.double(number=4, colour="red") == 8
    assert caller.shop.total(payments=[payment(), payment(colour="red")], colour="red") == 6


def test_a_service_that_was_never_started_is_not_waited_for_and_a_request_expires(caller, monkeypatch):
    sent: list[Any] = []
    monkeypatch.setattr(
        caller.proxies["stranger"].publisher, "publish", lambda messages: sent.extend(messages) or [False]
    )
    with pytest.raises(RpcUnavailable, match="has never been started"):
        caller.stranger.greet()
    [request] = sent
    assert request.properties["expiration"] == str(TIMEOUT_S * 1000), "nobody waits for the reply any longer"


def test_an_older_caller_that_omits_an_argument_has_an_unknown_outcome(caller, caplog):
    with pytest.raises(RpcFailed, match=r"shop\.double: InvalidArgument"):
        caller.shop.double(colour="red")
    assert [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "services.kit.amqp.rpc"] == [
        ("ERROR", "an RPC was refused, its outcome is unknown: shop.double: InvalidArgument")
    ]


@pytest.mark.parametrize(
    "method, error",
    [
        ("no_such_method", "MethodNotFound"),
        ("fail", "ZeroDivisionError"),
        ("name_a_set", "UnserializableValueError"),
    ],
)
def test_what_is_no_business_error_is_an_unknown_outcome_that_is_counted(caller, method, error):
    before = counted(f"shop.{method}", "refused")
    with pytest.raises(RpcUnavailable, match=error):
        getattr(caller.shop, method)()
    assert counted(f"shop.{method}", "refused") == before + 1


def test_a_business_error_reaches_the_caller(caller, caplog):
    with pytest.raises(AccountNotFound, match="Ada"):
        caller.shop.refuse()
    assert counted("shop.refuse", "replied") == 1
    assert [one for one in caplog.records if one.name.startswith("services.") and one.levelno >= logging.WARNING] == []


def test_a_server_that_cannot_answer_now_has_refused_nothing():
    with pytest.raises(RpcUnavailable) as caught:
        result_of({"result": None, "error": serialize(NotNow("DatabaseAway"))}, "billing.pay")
    assert not isinstance(caught.value, RpcFailed), "it is no trouble of what was asked for"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        [],
        {},
        {"result": 1},
        {"error": None},
        {"result": None, "error": "no"},
        {"result": None, "error": {}},
        {"result": None, "error": {"exc_type": "X", "exc_path": "elsewhere.X", "exc_args": [], "value": ""}},
        {"result": None, "error": {"exc_path": "services.contracts.AccountNotFound", "exc_args": 5}},
        {"result": None, "error": {"exc_path": ["services.contracts.AccountNotFound"]}},
        {"result": None, "error": serialize(MethodNotFound("pay"))},
        {"result": None, "error": serialize(InvalidArgument("amount"))},
        {"result": None, "error": serialize(RemoteError("X", "y"))},
    ],
)
def test_an_answer_that_makes_no_sense_is_an_unknown_outcome(answer):
    with pytest.raises(RpcFailed):
        result_of(answer, "billing.pay")


def test_an_answer_that_makes_sense():
    assert result_of({"result": [1], "error": None}, "billing.pay") == [1]
    assert result_of({"result": 1, "error": None, "colour": "red"}, "billing.pay") == 1
    with pytest.raises(OperationMismatch, match="the id"):
        result_of({"result": None, "error": serialize(OperationMismatch("the id"))}, "billing.pay")


def test_a_reply_that_cannot_be_decoded_ends_the_wait_and_the_next_call_works(caller):
    with Connection(broker.URI) as connection, connection.channel() as channel:
        queue = Queue("rpc-stranger", EXCHANGE, "stranger.*")(channel)
        queue.declare()
        call = eventlet.spawn(caller.stranger.anything)
        request = None
        while request is None:
            eventlet.sleep(0.01)
            request = queue.get(no_ack=True)
        connection.Producer(channel).publish(
            b"{nonsense",
            exchange="nameko-rpc",
            routing_key=request.properties["reply_to"],
            correlation_id=request.properties["correlation_id"],
            content_type="application/json",
            content_encoding="utf-8",
        )
        with pytest.raises(RpcFailed, match="cannot be read"):
            call.wait()
    assert caller.shop.double(number=1) == 2


def test_replies_are_forgotten_when_nobody_waits_for_them_any_more(caller):
    with pytest.raises(AccountNotFound):
        caller.shop.refuse()
    with pytest.raises(RpcUnavailable, match="did not reply in 2 s|has never been started"):
        caller.stranger.anything()
    assert [proxy.listener._reply_events for proxy in caller.proxies.values()] == [{}, {}]


class Broker:
    """A fake of the broker: it takes replies or fails, and records what became of requests."""

    def __init__(self, *answers: Exception | list[bool]) -> None:
        self.answers = list(answers)
        self.did: list[str] = []

    def publish(self, messages: list[Any]) -> list[bool]:
        self.did.append(f"reply {json.loads(messages[0].body)['result']}")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ack_message(self, message: Any) -> None:
        self.did.append("ack")

    def requeue_message(self, message: Any) -> None:
        self.did.append("requeue")


@pytest.mark.parametrize(
    "answer, then",
    [
        ([True], "ack"),
        ([False], "ack"),
        (Unavailable("away"), "requeue"),
    ],
)
def test_a_request_is_acknowledged_only_after_its_reply(answer, then):
    consumer = RpcConsumer()
    consumer.publisher = consumer.queue_consumer = fake = Broker(answer)
    consumer.container = SimpleNamespace(config={}, tracer=Tracer())
    consumer.handle_result(SimpleNamespace(properties={"reply_to": "x"}, span=NO_SPAN), 5, None)
    assert fake.did == ["reply 5", then]
