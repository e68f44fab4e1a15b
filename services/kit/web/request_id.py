"""The id of a request, which joins an answer to the lines of the log: given by the client or a proxy, or made here."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

REQUEST_ID = "X-Request-Id"
USABLE = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def identified(given: str | None) -> Iterator[str]:
    """Answer a request under the id that it was `given`, if that can be used, or else under a new one."""
    id_ = given if given and USABLE.fullmatch(given) else str(uuid4())
    token = _current.set(id_)
    try:
        yield id_
    finally:
        _current.reset(token)


def request_id() -> str | None:
    """Return the id of the request that is being answered; None outside of one."""
    return _current.get()
