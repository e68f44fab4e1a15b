"""Messages, and their bytes."""

from dataclasses import dataclass, field
from typing import Any

from kombu import Exchange, Queue
from kombu.serialization import dumps


class Unencodable(Exception):
    """A message cannot be written as JSON, or does not fit into AMQP."""


@dataclass(frozen=True)
class Message:
    """A message and its destination: an exchange and a routing key, or a queue. The destination is declared first.

    `properties` are those of AMQP. By default a message is persistent and gets an id of its own.
    """

    body: Any
    to: Exchange | Queue
    routing_key: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, str] | None = None  # content type and encoding of a body that is bytes already


def encode(message: Message) -> tuple[str, str, Any]:
    """Return the content type, the encoding and the bytes of the body: JSON, unless it is bytes already."""
    if isinstance(message.body, bytes | memoryview):
        given = message.encoded or {}
        return (
            given.get("content_type", "application/octet-stream"),
            given.get("content_encoding", "binary"),
            bytes(message.body),
        )
    try:
        encoded: tuple[str, str, Any] = dumps(message.body, serializer="json")
    except Exception as error:
        raise Unencodable(f"a message to {message.to.name} cannot be JSON: {type(error).__name__}") from error
    return encoded
