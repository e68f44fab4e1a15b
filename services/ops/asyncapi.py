"""The AsyncAPI 3.0 document of what crosses the broker, made from the entrypoints and contracts of the services."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints, is_typeddict

from kombu import Queue
from nameko.events import SERVICE_POOL
from nameko.rpc import RPC_QUEUE_TEMPLATE, RPC_REPLY_QUEUE_TEMPLATE, RPC_REPLY_QUEUE_TTL, get_rpc_exchange
from nameko.standalone.events import get_event_exchange
from pydantic import TypeAdapter, create_model

from services.contracts import EVENTS, AccountNotFound, OperationMismatch, Outcome, Payment
from services.kit.amqp.events import EventHandler
from services.kit.amqp.rpc import TRANSIENT, Rpc, RpcProxy
from services.kit.errors import InvalidArgument, NotNow
from services.kit.event import Event
from services.kit.outbox.provider import Outbox
from services.ops.openapi import SERVICES, entrypoints

PERSISTENT = 2
JSON = "application/json"
#: Outcomes are a str on the wire; the other methods say theirs in their annotations.
RESULTS: dict[str, Any] = {"pay": Outcome, "pay_all": list[Outcome], "refuse": Outcome}
ERRORS = (AccountNotFound, OperationMismatch, InvalidArgument, NotNow)

ABOUT = """\
What crosses RabbitMQ between users, billing, orders and notifications.

Events are facts. A service writes one in the transaction of what it tells of (outbox), publishes it with confirms
and `mandatory`, and may do so more than once; a handler acts once for each `event_id`. What it cannot handle
goes to a table of its own database, with the reason, rather than back to the broker.
RPC is Nameko's: a request goes to the exchange with the method as routing key, the reply comes to the routing key in
`reply_to` with the request's `correlation_id`. Both are AMQP properties, written here as `$message.header`.
A caller that hears nothing until its deadline does not know the outcome, and asks again with the same ids.
"""
ID = "8f0c1c2e-4a57-4b1e-9a5c-6d2f0e7b3a10"
EXAMPLES: dict[str, Any] = {
    "event_id": "0b9f7c64-2c1d-4f0e-8a37-5f3f0c1d9e21",
    "user_id": "70c5c707-9d4f-497c-898a-8964cfa81748",
    "order_id": ID,
    "operation_id": ID,
    "price": 300,
    "amount": 300,
    "email": "ada@example.com",
    "open_account": {"user_id": "70c5c707-9d4f-497c-898a-8964cfa81748", "balance": 0},
    "get_account": {"user_id": "70c5c707-9d4f-497c-898a-8964cfa81748", "balance": 300},
    "pay": "accepted",
    "pay_all": ["accepted"],
    "wait": False,
    "refuse": "refused",
    "user_ids": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
    "open_accounts": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
    "known_users": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
}
EXAMPLES["payments"] = [{name: EXAMPLES[name] for name in Payment.model_fields}]


def document() -> str:
    """The document as JSON text."""
    return json.dumps(as_dict(), indent=2, ensure_ascii=False) + "\n"


def as_dict() -> dict[str, Any]:
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for event in EVENTS:
        messages[event.TYPE] = event_message(event)
        channels[f"{event.SOURCE}.events.{event.TYPE}"] = exchange_channel(
            get_event_exchange(event.SOURCE, {}), event.TYPE, [event.TYPE], first_line(event)
        )
    for service in SERVICES:
        for part in (events_out(service), events_in(service), calls_served(service), calls_made(service)):
            for kind, name, described in part:
                {"channel": channels, "operation": operations, "message": messages}[kind][name] = described
    channels[f"{get_rpc_exchange({}).name}.reply"]["messages"] = references(
        [f"{service.name}.{one.__name__}.reply" for service in SERVICES for one, _ in entrypoints(service, Rpc)]
    )
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "nameko-hw", "version": "1.0.0", "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": JSON,
        "servers": {
            "broker": {
                "host": "127.0.0.1:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ, at AMQP_URI",
            }
        },
        "channels": dict(sorted(channels.items())),
        "operations": dict(sorted(operations.items())),
        "components": {"messages": dict(sorted(messages.items()))},
    }


Part = Iterator[tuple[str, str, dict[str, Any]]]


def events_out(service: Any) -> Part:
    """What the relay of a service's outbox publishes."""
    if not any(isinstance(one, Outbox) for one in vars(service).values()):
        return
    for event in EVENTS:
        if event.SOURCE == service.name:
            yield (
                "operation",
                f"{service.name}.publish.{event.TYPE}",
                operation(
                    "send",
                    f"{event.SOURCE}.events.{event.TYPE}",
                    event.TYPE,
                    f"The relay of {service.name} publishes it until the broker has confirmed and routed it",
                    deliveryMode=PERSISTENT,
                    mandatory=True,
                ),
            )


def events_in(service: Any) -> Part:
    """What a service handles."""
    for method, handler in entrypoints(service, EventHandler):
        event = handler.event
        queue = handler_queue(service.name, method.__name__, handler)
        yield (
            "channel",
            queue.name,
            queue_channel(queue.name, [event.TYPE], f"Bound to {event.SOURCE}.events with {event.TYPE}"),
        )
        yield (
            "operation",
            f"{service.name}.handle.{event.TYPE}",
            operation("receive", queue.name, event.TYPE, first_line(method), ack=True),
        )


def calls_served(service: Any) -> Part:
    """The RPC methods of a service."""
    for method, _ in entrypoints(service, Rpc):
        name = f"{service.name}.{method.__name__}"
        exchange = get_rpc_exchange({})
        yield "message", f"{name}.request", request_message(name, method)
        yield "message", f"{name}.reply", reply_message(name, method)
        yield (
            "channel",
            f"{exchange.name}.{name}",
            exchange_channel(exchange, name, [f"{name}.request"], first_line(method)),
        )
        yield (
            "channel",
            RPC_QUEUE_TEMPLATE.format(service.name),
            queue_channel(
                RPC_QUEUE_TEMPLATE.format(service.name),
                [f"{service.name}.{one.__name__}.request" for one, _ in entrypoints(service, Rpc)],
                f"Bound to {exchange.name} with {service.name}.*",
            ),
        )
        yield (
            "channel",
            f"{exchange.name}.reply",
            exchange_channel(
                exchange,
                None,
                [f"{service.name}.{one.__name__}.reply" for one, _ in entrypoints(service, Rpc)],
                "Replies. The routing key is the `reply_to` of the request: a UUID for each calling process, to which "
                f"its queue {RPC_REPLY_QUEUE_TEMPLATE.format('<service>', '<uuid>')} is bound; "
                f"that queue expires after {RPC_REPLY_QUEUE_TTL} ms without its process",
            ),
        )
        yield (
            "operation",
            f"{service.name}.serve.{method.__name__}",
            operation(
                "receive", RPC_QUEUE_TEMPLATE.format(service.name), f"{name}.request", first_line(method), ack=True
            )
            | reply_of(name),
        )


def calls_made(service: Any) -> Part:
    """The RPC methods that a service calls, found in its source as `self.<proxy>.<method>(`."""
    for attribute, proxy in vars(service).items():
        if isinstance(proxy, RpcProxy):
            for method in sorted(set(re.findall(rf"self\.{attribute}\.(\w+)\(", inspect.getsource(service)))):
                name = f"{proxy.target}.{method}"
                yield (
                    "operation",
                    f"{service.name}.call.{name}",
                    operation(
                        "send",
                        f"{get_rpc_exchange({}).name}.{name}",
                        f"{name}.request",
                        f"{service.name} asks {proxy.target}, and waits RPC_TIMEOUT_S for the reply at the most",
                        deliveryMode=TRANSIENT,
                        mandatory=True,
                    )
                    | reply_of(name),
                )


def handler_queue(service: str, method: str, handler: EventHandler) -> Queue:
    """The queue of a handler, as Nameko's EventHandler.setup names it for a pool of replicas."""
    assert handler.handler_type == SERVICE_POOL
    return Queue(f"evt-{handler.source_service}-{handler.event_type}--{service}.{method}")


def operation(action: str, channel: str, message: str, summary: str, **amqp: Any) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        "bindings": {"amqp": amqp | {"bindingVersion": "0.3.0"}},
    }


def reply_of(name: str) -> dict[str, Any]:
    channel = f"#/channels/{get_rpc_exchange({}).name}.reply"
    return {
        "reply": {
            "address": {"location": "$message.header#/reply_to", "description": "AMQP property reply_to"},
            "channel": {"$ref": channel},
            "messages": [{"$ref": f"{channel}/messages/{name}.reply"}],
        }
    }


def exchange_channel(exchange: Any, routing_key: str | None, messages: list[str], text: str) -> dict[str, Any]:
    """A routing key of an exchange; None for keys that are known at run time only."""
    return {
        "address": routing_key,
        "description": text,
        "messages": references(messages),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "bindingVersion": "0.3.0",
                "exchange": {
                    "name": exchange.name,
                    "type": exchange.type,
                    "durable": exchange.durable,
                    "autoDelete": False,
                    "vhost": "/",
                },
            }
        },
    }


def queue_channel(name: str, messages: list[str], text: str) -> dict[str, Any]:
    """A queue; all of ours are durable, shared by the replicas of a service, and never deleted."""
    return {
        "address": name,
        "description": text,
        "messages": references(messages),
        "bindings": {
            "amqp": {
                "is": "queue",
                "bindingVersion": "0.3.0",
                "queue": {"name": name, "durable": True, "exclusive": False, "autoDelete": False, "vhost": "/"},
            }
        },
    }


def references(messages: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def event_message(event: type[Event]) -> dict[str, Any]:
    schema = event.model_json_schema(mode="serialization")
    schema["required"] = list(schema["properties"])  # a producer always gives the event_id
    return {
        "name": event.TYPE,
        "title": event.__name__,
        "summary": first_line(event),
        "contentType": JSON,
        "payload": schema,
        "examples": [{"payload": example(schema["properties"])}],
    }


def request_message(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    arguments = {key: inline(TypeAdapter(hint).json_schema()) for key, hint in hints(method).items() if key != "return"}
    required = [
        one.name
        for one in inspect.signature(method).parameters.values()
        if one.name in arguments and one.default is inspect.Parameter.empty
    ]
    kwargs = {
        "type": "object",
        "properties": arguments,
        "required": required,
        "description": "What is not known here is ignored",
    }
    schema = {
        "type": "object",
        "required": ["args", "kwargs"],
        "additionalProperties": False,
        "properties": {"args": {"type": "array", "maxItems": 0, "description": "Ours are all named"}, "kwargs": kwargs},
    }
    return rpc_message(f"{name}.request", first_line(method), schema, [{"args": [], "kwargs": example(arguments)}])


def reply_message(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    result = result_schema(RESULTS.get(method.__name__, hints(method)["return"]))
    paths = [f"{error.__module__}.{error.__name__}" for error in ERRORS]
    error = {
        "type": "object",
        "required": ["exc_type", "exc_path", "exc_args", "value"],
        "properties": {
            "exc_type": {"type": "string", "examples": [error.__name__ for error in ERRORS]},
            "exc_path": {
                "type": "string",
                "examples": paths,
                "description": "Others than these are defects or outages",
            },
            "exc_args": {"type": "array"},
            "value": {"type": ["string", "null"]},
        },
    }
    schema = {
        "type": "object",
        "required": ["result", "error"],
        "additionalProperties": False,
        "oneOf": [
            {"properties": {"result": result, "error": {"type": "null"}}},
            {"properties": {"result": {"type": "null"}, "error": error}},
        ],
        "properties": {"result": {}, "error": {}},
    }
    failed = {
        "exc_type": "InvalidArgument",
        "exc_path": paths[2],
        "exc_args": ["user_id: Missing required argument"],
        "value": "user_id: Missing required argument",
    }
    return rpc_message(
        f"{name}.reply",
        f"What {name} gives, or raises",
        schema,
        [{"result": EXAMPLES[method.__name__], "error": None}, {"result": None, "error": failed}],
    )


def result_schema(result: Any) -> dict[str, Any]:
    if is_typeddict(result):  # which pydantic takes from Python 3.12 on
        result = create_model(result.__name__, __doc__=result.__doc__, **get_type_hints(result))
    return inline(TypeAdapter(result).json_schema())


def inline(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list with that of its items inside: their reference would hold at the root only."""
    if "$ref" not in schema.get("items", {}):
        return schema
    name = schema["items"]["$ref"].rpartition("/")[2]
    return {**{key: value for key, value in schema.items() if key != "$defs"}, "items": schema["$defs"][name]}


def rpc_message(name: str, summary: str, schema: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "contentType": JSON,
        "correlationId": {
            "location": "$message.header#/correlation_id",
            "description": "AMQP property correlation_id, the same in request and reply",
        },
        "payload": schema,
        "examples": [{"payload": one} for one in examples],
    }


def hints(method: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(inspect.unwrap(method), include_extras=True)


def example(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: EXAMPLES[name] for name in properties}


def first_line(documented: Any) -> str:
    text = inspect.getdoc(documented)
    assert text
    return text.splitlines()[0]
