"""RPC over AMQP in Nameko's own wire format, with a deadline on both sides.

The caller waits for RPC_TIMEOUT_S and then raises RpcUnavailable: the outcome is unknown. Any other failure is an
Unavailable too, except a BusinessError, which is an answer. The request expires in the broker after the same time,
unless the server has it already. So a request may be carried out when nobody waits for it any more; the caller finds
out by asking again with the same operation id. (Birrell and Nelson, "Implementing Remote Procedure Calls", 1984:
exactly once if the call returns, at most once if it does not. Here a request may run more than once; stored outcomes
make that harmless.)

Caller and server may be of different versions. The server ignores arguments that it does not know. The caller treats
every answer that it does not know as an unknown outcome: it cannot tell what the server did before it failed.

What a crash leaves: of the caller, a request that may be carried out; of the server, a request that is not
acknowledged, which is delivered again and has to find its work done.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any
from uuid import uuid4

import nameko.rpc
from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.exceptions import UnserializableValueError, deserialize, serialize
from nameko.extensions import DependencyProvider
from nameko.messaging import HeaderEncoder
from nameko.rpc import get_rpc_exchange
from pydantic import ConfigDict, ValidationError, validate_call

from services.kit import tracing
from services.kit.amqp.consumer import QueueConsumer
from services.kit.amqp.message import Message, Unencodable, encode
from services.kit.amqp.publisher import Publisher, RefusedByBroker
from services.kit.amqp.queues import arguments_of
from services.kit.errors import TEMPORARY, BusinessError, CallFailed, InvalidArgument, NotNow, Unavailable
from services.kit.seams import Container, Incoming
from services.kit.tracing import TRACEPARENT, Kind, ended

log = logging.getLogger(__name__)

TRANSIENT = 1  # delivery mode: requests and replies that a crash of the broker loses are asked for again


class RpcUnavailable(Unavailable):
    """No usable answer came: the call may have been carried out, or not."""


class RpcFailed(RpcUnavailable, CallFailed):
    """The answer was an error other than a BusinessError, or could not be read: somebody should look at it."""


class ReplyListener(nameko.rpc.ReplyListener):
    """Nameko's listener, which forgets replies that nobody waits for any more, and survives unreadable ones."""

    container: Container
    queue_consumer = QueueConsumer()

    def setup(self) -> None:
        super().setup()
        self.queue.queue_arguments |= arguments_of(self.container.settings.QUEUE_TYPE)

    def forget(self, correlation_id: str) -> None:
        """Wait no longer for a reply; if it comes later, it is ignored."""
        self._reply_events.pop(correlation_id, None)

    def handle_undecodable(self, message: Incoming, error: Exception) -> None:
        """Give the caller None, which is no reply, so that it need not wait for its deadline."""
        self.handle_message(None, message)


class RpcProxy(DependencyProvider):
    """Calls another service: `billing = RpcProxy("billing")`, then `self.billing.open_accounts(user_ids=...)`.

    A BusinessError of the method is raised to the caller. Any other failure is an Unavailable: RpcUnavailable,
    RpcFailed, or the publisher's own.
    """

    container: Container
    listener = ReplyListener()
    publisher = Publisher()

    def __init__(self, target: str) -> None:
        self.target = target

    def get_dependency(self, worker_ctx: Any) -> "ServiceProxy":
        return ServiceProxy(self, HeaderEncoder().get_message_headers(worker_ctx))

    def call(self, method: str, arguments: dict[str, Any], headers: dict[str, Any]) -> Any:
        """Send the request and wait for its reply, RPC_TIMEOUT_S at the most; return the result or raise the error."""
        timeout_s = self.container.settings.RPC_TIMEOUT_S
        correlation_id = str(uuid4())
        reply: Signal = self.listener.get_reply_event(correlation_id)
        request = Message(
            {"args": [], "kwargs": arguments},
            get_rpc_exchange(self.container.config),
            f"{self.target}.{method}",
            headers | tracing.headers(),
            {
                "delivery_mode": TRANSIENT,
                "expiration": str(int(timeout_s * 1000)),
                "reply_to": self.listener.routing_key,
                "correlation_id": correlation_id,
            },
        )
        try:
            with Timeout(timeout_s, RpcUnavailable(f"{self.target}.{method} did not reply in {timeout_s:g} s")):
                [routed] = self.publisher.publish([request])
                if not routed:
                    raise RpcUnavailable(f"{self.target} has never been started")
                answer = reply.wait()
        finally:
            self.listener.forget(correlation_id)
        return result_of(answer, f"{self.target}.{method}")


def result_of(answer: Any, method: str) -> Any:
    """Return the result in a reply, or raise the BusinessError in it; RpcFailed for anything else."""
    if not isinstance(answer, dict) or not {"result", "error"} <= answer.keys():
        raise RpcFailed(f"{method}: the reply cannot be read")
    if answer["error"] is None:
        return answer["result"]
    try:
        error = deserialize(answer["error"])
    except Exception as unreadable:
        raise RpcFailed(f"{method}: the error in the reply cannot be read") from unreadable
    if isinstance(error, BusinessError):
        raise error
    if isinstance(error, NotNow):
        raise RpcUnavailable(f"{method} cannot be answered now: {error}")
    raise RpcFailed(f"{method}: {answer['error'].get('exc_type')}")


class ServiceProxy:
    """A remote service as a worker sees it: its attributes are the remote methods."""

    def __init__(self, proxy: RpcProxy, headers: dict[str, Any]) -> None:
        self._proxy = proxy
        self._headers = headers

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            started, outcome = time.monotonic(), "replied"
            container, target = self._proxy.container, self._proxy.target
            attributes = rpc_attributes(target, method)
            try:
                with container.tracer.span(f"{target}.{method}", Kind.CLIENT, attributes=attributes):
                    return self._proxy.call(method, arguments, self._headers)
            except RpcFailed as error:
                outcome = "refused"  # the label of a metric, which keeps its name
                log.error("an RPC was refused, its outcome is unknown: %s", error)
                raise
            except Unavailable as error:
                outcome = "failed"
                log.warning("%s.%s has an unknown outcome: %s", target, method, error)
                raise
            finally:
                container.metrics.rpcs.labels(container.service_name, f"{target}.{method}", outcome).observe(
                    time.monotonic() - started
                )

        return call


class RpcConsumer(nameko.rpc.RpcConsumer):
    """Nameko's consumer of RPC requests, which survives a malformed request and a lost broker."""

    container: Container
    queue_consumer = QueueConsumer()
    publisher = Publisher()

    def setup(self) -> None:
        super().setup()  # once for each method
        self.queue.queue_arguments = arguments_of(self.container.settings.QUEUE_TYPE)

    def handle_message(self, body: Any, message: Incoming) -> None:
        """Have a worker serve a request; drop a message that is none."""
        if not is_request(body) or not message.properties.get("reply_to"):
            log.error("dropped a message to %s that is no RPC request", message.delivery_info["routing_key"])
            self.queue_consumer.ack_message(message)
            return
        tracer, routing_key = self.container.tracer, str(message.delivery_info["routing_key"])
        attributes = rpc_attributes(*routing_key.split(".", 1))
        span = tracer.begin(routing_key, Kind.SERVER, message.headers.get(TRACEPARENT), attributes=attributes)
        message.span = span
        with tracer.under_way(span):
            super().handle_message(body, message)

    def handle_result(self, message: Incoming, result: Any, exc_info: Any) -> tuple[Any, Any]:
        """Send the reply, then acknowledge the request. If no reply can be sent, have the request delivered again."""
        with ended(message.span):
            if exc_info:
                self.container.tracer.fail(message.span, exc_info[1])
            try:
                self.publisher.publish([self._reply_to(message, result, exc_info)])
            except RefusedByBroker:
                pass  # the publisher has logged it; a redelivery would end in the same way
            except Unavailable as unavailable:
                log.warning("an RPC reply was not sent: %s", unavailable)
                self.queue_consumer.requeue_message(message)
                return result, exc_info
            self.queue_consumer.ack_message(message)
            return result, exc_info

    def _reply_to(self, message: Incoming, result: Any, exc_info: Any) -> Message:
        """Return the reply; one that says so, if the result cannot be encoded."""

        def reply_with(result: Any, error: Any) -> Message:
            return Message(
                {"result": result, "error": error},
                get_rpc_exchange(self.container.config),
                message.properties["reply_to"],
                properties={"delivery_mode": TRANSIENT, "correlation_id": message.properties.get("correlation_id")},
            )

        reply = reply_with(result, serialize(exc_info[1]) if exc_info else None)
        try:
            content_type, encoding, body = encode(reply)
        except Unencodable as error:  # a redelivery would fail in the same way
            log.error("an RPC's result: %s", error)
            return reply_with(None, serialize(UnserializableValueError(None)))
        return replace(
            reply,
            body=body.encode(encoding) if isinstance(body, str) else body,
            encoded={"content_type": content_type, "content_encoding": encoding},
        )


def rpc_attributes(service: str, method: str = "") -> dict[str, str | int | bool]:
    """Return the attributes of the spans of a call."""
    return {"rpc.system": "nameko", "rpc.service": service, "rpc.method": method}


def is_request(body: Any) -> bool:
    """Return whether `body` is one of Nameko's RPC requests."""
    return isinstance(body, dict) and isinstance(body.get("args"), list) and isinstance(body.get("kwargs"), dict)


class Rpc(nameko.rpc.Rpc):
    """Nameko's RPC entrypoint, served by RpcConsumer."""

    rpc_consumer = RpcConsumer()


def rpc(function: Callable[..., Any]) -> Callable[..., Any]:
    """Serve the decorated method by RPC. Arguments are checked against its annotations; unknown ones are ignored."""
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    _, *names = signature(function).parameters

    @wraps(function)
    def command(service: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names):
            raise InvalidArgument(f"there are only {len(names)} arguments: {', '.join(names)}")
        known = {name: value for name, value in kwargs.items() if name in names}  # a newer caller may send more
        try:
            return checked(service, **{**known, **dict(zip(names, args, strict=False))})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InvalidArgument(f"{first['loc'][-1]}: {first['msg']}") from None
        except TEMPORARY as error:
            log.warning("%s cannot answer now: %s", function.__name__, type(error).__name__)
            raise NotNow(type(error).__name__) from None
        except Exception as error:
            if not isinstance(error, BusinessError | InvalidArgument):
                log.error("%s failed", function.__name__, exc_info=sys.exc_info())
            raise

    return Rpc.decorator(command)
