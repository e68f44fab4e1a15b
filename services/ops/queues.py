"""The queues of the shop, and giving them the type that QUEUE_TYPE names, while the services are stopped."""

from collections.abc import Iterator
from typing import NamedTuple

from kombu import Queue
from nameko.rpc import RPC_QUEUE_TEMPLATE, get_rpc_exchange
from nameko.standalone.events import get_event_exchange

from services.kit.amqp.events import EventHandler
from services.kit.amqp.moving import CannotMove, hold, move
from services.kit.amqp.nodes import BROKER_DOWN, nodes_of
from services.kit.amqp.queues import arguments_of, handler_queue
from services.kit.amqp.rpc import Rpc
from services.kit.config import QueueType
from services.ops.configuration import configuration
from services.ops.errors import CommandError
from services.ops.openapi import entrypoints
from services.shop import SERVICES, Style, chosen_style, service_class

CONNECT_S = 30
HEARTBEAT_S = 60  # longer than any pause between two things that we ask of the broker


class ServiceQueue(NamedTuple):
    """A queue that the replicas of a service consume from. Requests are not kept: whoever waits for one has gone."""

    queue: Queue
    keeps: bool


def queues_of(style: Style, type_: QueueType) -> Iterator[ServiceQueue]:
    """Return the queues of events and of requests in a style, as the services declare them."""
    arguments = arguments_of(type_)
    for service in SERVICES:
        cls = service_class(service, style)
        for method, handler in entrypoints(cls, EventHandler):
            name, exchange = handler_queue(service, method.__name__, handler.event), handler.event.SOURCE
            yield ServiceQueue(
                Queue(name, get_event_exchange(exchange, {}), handler.event.TYPE, queue_arguments=arguments), True
            )
        if entrypoints(cls, Rpc):
            name = RPC_QUEUE_TEMPLATE.format(service)
            yield ServiceQueue(Queue(name, get_rpc_exchange({}), f"{service}.*", queue_arguments=arguments), False)


def move_all() -> None:
    """Give all queues the type of the configuration, and say for each what was done."""
    config, style = configuration(), chosen_style()
    if not style.has_broker:
        raise CommandError(f"the style {style.name} has no broker")
    try:
        connection = nodes_of(config).connect(CONNECT_S, HEARTBEAT_S, lambda opened: opened)
        with connection:
            hold(connection)
            for queue, keeps in queues_of(style, config["QUEUE_TYPE"]):
                carried = move(connection, queue, keeps)
                was = (
                    "as it was"
                    if carried is None
                    else f"is a {config['QUEUE_TYPE']} queue now, with {carried} messages"
                )
                print(f"{queue.name}: {was}", flush=True)
    except CannotMove as error:
        raise CommandError(str(error)) from None
    except BROKER_DOWN as error:
        raise CommandError(f"the broker: {error}; run it again, it goes on where it was") from None
