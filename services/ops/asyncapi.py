"""The AsyncAPI 3.0 document of what crosses the broker, made from the entrypoints and contracts of the services."""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from nameko.events import SERVICE_POOL
from nameko.rpc import RPC_QUEUE_TEMPLATE, RPC_REPLY_QUEUE_TEMPLATE, RPC_REPLY_QUEUE_TTL, get_rpc_exchange
from nameko.standalone.events import get_event_exchange

from services.contracts import EVENTS
from services.kit.amqp.events import EventHandler
from services.kit.amqp.queues import handler_queue
from services.kit.amqp.rpc import TRANSIENT, Rpc, RpcProxy
from services.kit.event import Event
from services.kit.outbox.provider import Outbox
from services.ops.asyncapi_messages import (
    JSON,
    details_of,
    event_message,
    first_line,
    references,
    reply_message,
    request_message,
)
from services.ops.errors import CommandError
from services.ops.openapi import classes, entrypoints
from services.shop import Style

PERSISTENT = 2

ABOUT = """\
What crosses RabbitMQ between users, billing, orders and notifications.

Events are facts. A service writes an event to its outbox together with the change that the event reports: one commit
holds both. It publishes the event with confirms and `mandatory`, perhaps more than once; a handler acts once for each
`event_id`. An event whose handler fails is kept, with the reason, in the inbox of the handler's own database, and tried
again from there.
"""
ABOUT_RPC = """\
RPC is Nameko's: a request goes to the exchange with the method as routing key, the reply comes to the routing key in
`reply_to` with the request's `correlation_id`. Both are AMQP properties, written here as `$message.header`.
A caller that gets no reply within its deadline does not know the outcome, and asks again with the same ids.
"""


def document(style: Style) -> str:
    """Return the document of a style as JSON text."""
    return json.dumps(as_dict(style), indent=2, ensure_ascii=False) + "\n"


def as_dict(style: Style) -> dict[str, Any]:
    """Return the document. Raises CommandError for a style in which nothing crosses a broker."""
    if not style.has_broker:
        raise CommandError(f"in the style {style.name} nothing crosses a broker; see `nameko-hw openapi --internal`")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    services = classes(style)
    for event in events_of(services):
        messages[event.TYPE] = event_message(event)
        channels[f"{event.SOURCE}.events.{event.TYPE}"] = exchange_channel(
            get_event_exchange(event.SOURCE, {}), event.TYPE, [event.TYPE], first_line(event)
        )
    for service in services:
        for part in (events_out(service), events_in(service), calls_served(service), calls_made(service)):
            for kind, name, described in part:
                {"channel": channels, "operation": operations, "message": messages}[kind][name] = described
    if replies := [
        f"{service.name}.{one.__name__}.reply" for service in services for one, _ in entrypoints(service, Rpc)
    ]:
        channels[f"{get_rpc_exchange({}).name}.reply"]["messages"] = references(replies)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"nameko-hw, style {style.name}",
            "version": "1.0.0",
            "description": ABOUT + ABOUT_RPC * bool(replies),
            "license": {"name": "Apache-2.0"},
        },
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


def events_of(services: list[Any]) -> list[type[Event]]:
    """Return the events that these services publish."""
    return [event for service in services for event in published(service)]


def published(service: Any) -> list[type[Event]]:
    """Return the events that the relay of a service's outbox publishes, those that another style has left included."""
    outboxes = [one for _, one in inspect.getmembers(service) if isinstance(one, Outbox)]
    return [event for one in outboxes for event in EVENTS if event.SOURCE == service.name and event not in one.ignores]


def events_out(service: Any) -> Part:
    """Describe what the relay of a service's outbox publishes."""
    for event in published(service):
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
    """Describe the events that a service handles."""
    for method, handler in entrypoints(service, EventHandler):
        event = handler.event
        assert handler.handler_type == SERVICE_POOL  # one queue for all replicas
        queue = handler_queue(service.name, method.__name__, event)
        yield (
            "channel",
            queue,
            queue_channel(queue, [event.TYPE], f"Bound to {event.SOURCE}.events with {event.TYPE}"),
        )
        yield (
            "operation",
            f"{service.name}.handle.{event.TYPE}",
            operation("receive", queue, event.TYPE, first_line(method), ack=True) | details_of(method),
        )


def calls_served(service: Any) -> Part:
    """Describe the RPC methods of a service."""
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
                "Replies. The routing key is the `reply_to` of the request: a UUID for each calling process, which "
                f"binds its queue {RPC_REPLY_QUEUE_TEMPLATE.format('<service>', '<uuid>')} to it; "
                f"the queue expires {RPC_REPLY_QUEUE_TTL} ms after its process has ended",
            ),
        )
        yield (
            "operation",
            f"{service.name}.serve.{method.__name__}",
            operation(
                "receive", RPC_QUEUE_TEMPLATE.format(service.name), f"{name}.request", first_line(method), ack=True
            )
            | details_of(method)
            | reply_of(name),
        )


def calls_made(service: Any) -> Part:
    """Describe the RPC methods that a service calls, which its source has as `self.<proxy>.<method>(`."""
    for attribute, proxy in inspect.getmembers(service):
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
                        f"{service.name} calls {proxy.target}, and waits RPC_TIMEOUT_S at the most for the reply",
                        deliveryMode=TRANSIENT,
                        mandatory=True,
                    )
                    | reply_of(name),
                )


def operation(action: str, channel: str, message: str, summary: str, **amqp: Any) -> dict[str, Any]:
    """Describe that a service sends or receives a message; `amqp` are the bindings."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        "bindings": {"amqp": amqp | {"bindingVersion": "0.3.0"}},
    }


def reply_of(name: str) -> dict[str, Any]:
    """Describe where the reply to a call of the method `name` comes."""
    channel = f"#/channels/{get_rpc_exchange({}).name}.reply"
    return {
        "reply": {
            "address": {"location": "$message.header#/reply_to", "description": "AMQP property reply_to"},
            "channel": {"$ref": channel},
            "messages": [{"$ref": f"{channel}/messages/{name}.reply"}],
        }
    }


def exchange_channel(exchange: Any, routing_key: str | None, messages: list[str], text: str) -> dict[str, Any]:
    """Describe a routing key of an exchange; None stands for keys that are known at run time only."""
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
    """Describe a queue; all of ours are durable, shared by the replicas of a service, and never deleted."""
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
