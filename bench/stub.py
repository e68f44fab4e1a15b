"""A billing that says `accepted` at once, in Nameko's wire format: what orders can do when nobody holds it up.

It also declares a queue for the events of orders, which keeps the last thousand, so that they can be published.

    python -m bench.stub URI
"""

import json
import sys
from typing import Any

import amqp
from sqlalchemy import make_url

from services.contracts import OrderPaid, Outcome
from services.kit.amqp.transport import JSON

RPC_EXCHANGE, QUEUE = "nameko-rpc", "rpc-billing"
SINK, KEPT = "bench.sink", 1000


def serve(uri: str) -> None:
    """Answer requests until the process is killed."""
    url = make_url(uri)
    with amqp.Connection(f"{url.host}:{url.port}", userid=url.username, password=url.password) as connection:
        channel = connection.channel()
        declare(channel, QUEUE, RPC_EXCHANGE, "billing.*")
        declare(channel, SINK, f"{OrderPaid.SOURCE}.events", "#", {"x-max-length": KEPT})
        channel.basic_consume(QUEUE, no_ack=True, callback=lambda request: answer(channel, request))
        while True:
            connection.drain_events()


def declare(channel: Any, queue: str, exchange: str, key: str, arguments: dict[str, Any] | None = None) -> None:
    """Declare a queue and its exchange as Nameko does."""
    channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    channel.queue_bind(queue, exchange, key)


def answer(channel: Any, request: Any) -> None:
    """Accept all payments of a request."""
    payments = json.loads(request.body)["kwargs"]["payments"]
    reply = {"result": [Outcome.ACCEPTED] * len(payments), "error": None}
    channel.basic_publish(
        amqp.Message(json.dumps(reply), correlation_id=request.properties["correlation_id"], delivery_mode=1, **JSON),
        RPC_EXCHANGE,
        request.properties["reply_to"],
    )


if __name__ == "__main__":
    try:
        serve(sys.argv[1])
    except KeyboardInterrupt:
        pass
