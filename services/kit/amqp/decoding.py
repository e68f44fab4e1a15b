"""Reading events out of messages, and keeping the bytes of those that cannot be read."""

import hashlib
from collections.abc import Collection
from typing import Any

from kombu.serialization import loads, prepare_accept_content
from pydantic import ValidationError

from services.kit.event import Event
from services.kit.inbox.table import DueMessage, FailedMessage
from services.kit.seams import Incoming


class Unreadable(Exception):
    """A message is not an event of the declared type; the text says why."""


def event_in(body: Any, type_: type[Event]) -> Event:
    """Return the event in a decoded body; raise Unreadable if it is not a `type_`."""
    try:
        return type_.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unreadable(f"no {type_.__name__}: {where}: {first['msg']}") from None


def event_of(due: DueMessage, type_: type[Event], accept: Collection[str]) -> Event:
    """Return the event in a row of the inbox, whose content type must be one of `accept`; raise Unreadable."""
    try:
        body = loads(due.body, due.content_type, due.content_encoding, accept=prepare_accept_content(accept))
    except Exception as error:
        raise Unreadable(undecodable(error)) from None
    return event_in(body, type_)


def undecodable(error: Exception) -> str:
    """Return the reason of a dead letter whose body cannot be decoded."""
    return f"cannot be decoded: {type(error).__name__}"


def failed_event(message: Incoming, event: Event | None, attempts: int, reason: str) -> FailedMessage:
    """Return what the inbox keeps of a message whose event failed, or in which there is none."""
    body = message.body
    raw = body.encode() if isinstance(body, str) else bytes(body)  # the broker of embedded mode delivers text
    key = str(event.event_id) if event else f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return FailedMessage(key, raw, message.content_type, message.content_encoding, message.headers, attempts, reason)
