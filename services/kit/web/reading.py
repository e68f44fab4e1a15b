"""What a request says in its headers, its query and its body. What is not as it should be raises a Problem."""

import json
import re
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from werkzeug.wrappers import Request

from services.kit.db.commits import Position
from services.kit.web.problems import Problem, bad_field, invalid
from services.kit.web.sse import LAST_EVENT_ID

CLOSE = {"Connection": "close"}
IDEMPOTENCY_KEY = "Idempotency-Key"
#: A key of 1 to 255 printable ASCII characters, bare, or as a String of RFC 9651.
KEY_PATTERN = (
    r"[\x21\x23-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?"
    r'|"([\x21\x23-\x5b\x5d-\x7e]|\\["\\])'
    r'(([\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){0,253}([\x21\x23-\x5b\x5d-\x7e]|\\["\\]))?"'
)


def key_of(request: Request) -> str | None:
    """Return the Idempotency-Key, bare or quoted as in draft-ietf-httpapi-idempotency-key-header; None without one."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    if is_repeated(request, IDEMPOTENCY_KEY):
        raise bad_field(IDEMPOTENCY_KEY, "repeated", "is given twice", 400)
    if not re.fullmatch(KEY_PATTERN, key):
        raise bad_field(
            IDEMPOTENCY_KEY, "malformed", "should be 1 to 255 printable ASCII characters, which may be quoted", 400
        )
    if key.startswith('"'):
        return re.sub(r"\\(.)", r"\1", key[1:-1])
    return key


def is_repeated(request: Request, header: str) -> bool:
    """Return whether a header was sent twice, which WSGI has joined to one, by a comma."""
    return sum(name.lower() == header.lower() for name, _ in request.environ.get("headers_raw", ())) > 1


def last_of(request: Request) -> Position | None:
    """Return the position of the last event that the client has got, None if it does not say."""
    last = request.headers.get(LAST_EVENT_ID)
    try:
        return Position.of(last) if last else None
    except ValueError:
        raise bad_field(LAST_EVENT_ID, "malformed", "should be the id of an event", 400) from None


def query_of(request: Request) -> dict[str, str]:
    for name, values in request.args.lists():
        if len(values) > 1:
            raise bad_field(name, "repeated", "is given twice", 400)
    return request.args.to_dict()


def checked(model: type[BaseModel], values: Any) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from None


def body_of(request: Request, limit: int) -> Any:
    """Return the parsed JSON body, of up to `limit` bytes, with a Content-Length or in chunks."""
    if request.mimetype != "application/json":
        raise Problem(415, "unsupported-media-type", "Content-Type: should be application/json.")
    try:
        return BODY.decode(read(request, limit).decode("utf-8"))
    except (ValueError, RecursionError):
        raise Problem(400, "malformed-json", "body: is not well-formed JSON in UTF-8.") from None


def read(request: Request, limit: int) -> bytes:
    too_long = Problem(413, "body-too-long", f"body: should not be longer than {limit} bytes.", headers=CLOSE)
    if (request.content_length or 0) > limit:
        raise too_long
    try:
        # eventlet's stream ends where the body does, also if it comes in chunks, which Werkzeug's does not read
        body = request.environ["wsgi.input"].read(limit + 1)
    except (OSError, ValueError):
        raise Problem(400, "malformed-body", "body: could not be read to its end.", headers=CLOSE) from None
    if len(body) > limit:
        raise too_long
    if len(body) < (request.content_length or 0):
        raise Problem(400, "malformed-body", "body: is shorter than its Content-Length.", headers=CLOSE)
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            shown = name.encode("ascii", "backslashreplace").decode("ascii")[:100]
            raise bad_field(shown, "repeated", "is given twice", 400)
        values[name] = value
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


BODY = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
