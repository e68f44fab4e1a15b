"""What a route answers, for the OpenAPI document: models, problems, headers, and an example of each."""

import json
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from services.kit.errors import KeyReused
from services.kit.web import sse
from services.kit.web.auth.refusals import AUTHENTICATE, insufficient_scope, invalid_token, no_token, two_tokens
from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.catalogue import COMMON
from services.kit.web.entrypoint import Route
from services.kit.web.limits.limits import POLICY, STATE
from services.kit.web.prefer import PREFERENCE_APPLIED
from services.kit.web.problems import (
    CONTENT_TYPE,
    REPLAYED,
    Problem,
    ProblemView,
    bad_field,
    from_exception,
    invalid,
    too_many,
)
from services.kit.web.reading import IDEMPOTENCY_KEY
from services.kit.web.request_id import REQUEST_ID, identified
from services.shop import SHOP

Described = dict[str, Any]

HEADER_REF = "#/components/headers/{name}"
ENDED = "Ended. 201 is not success: read `status`"  # of an answer that may be 202 as well
ANSWERS = {200: "Done", 201: "Created", 202: "Stored, but the outcome of the payment is not known yet"}
#: What a route that streams sends instead of JSON.
STREAM = (
    "Server-sent events without an end. Of each, `id` is its position, `event` its type, `data` the letter as JSON. "
    "The first thing that comes is an `id` alone: where the stream begins. Lines that begin with `:` say that it lives."
)
STREAM_EXAMPLE = "id: 7431234567890123456.1240.5b0d1f4c-0a3e-4b7d-8a53-41f6a1d2c9e8\nevent: order_paid\ndata: {...}\n\n"
#: The answers to a request whose sender may not send it.
REFUSALS: Mapping[str, Callable[[Any], Problem]] = {
    "unauthorized": lambda needs: no_token(),
    "invalid-token": lambda needs: invalid_token("has expired"),
    "insufficient-scope": lambda needs: insufficient_scope(needs.scope),
}
UNKNOWN_FIELD = {"colour": "green"}  # no request of ours has it
SOME_REQUEST = "0f6a2c1e-8b0d-4c55-9a57-3d1be0c8f1aa"

#: The headers of answers.
HEADERS: dict[str, Described] = {
    REQUEST_ID: {
        "description": "Joins this answer to the log of the service; that of the request, if it had one",
        "schema": {"type": "string"},
        "example": SOME_REQUEST,
    },
    "Cache-Control": {
        "description": "`no-store` on what may change, `private, no-cache` on what has ended and has an `ETag`",
        "schema": {"type": "string"},
        "example": "no-store",
    },
    REPLAYED: {
        "description": "Only if the key was used before: nothing was done again",
        "schema": {"type": "string", "const": "true"},
        "example": "true",
    },
    "Location": {
        "description": "The path of what was created",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/orders/7d4e0a7c-53a4-4c57-9f0b-2b8a1b6d0e42",
    },
    "Retry-After": {
        "description": "After how many seconds to ask again, or to send it again",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    STATE: {
        "description": "What the client has left, and in how many seconds all of it; only if its requests are limited",
        "schema": {"type": "string"},
        "example": '"default";r=599;t=1',
    },
    POLICY: {
        "description": "How many requests a client may send in how many seconds; only if they are limited",
        "schema": {"type": "string"},
        "example": '"default";q=600;w=60',
    },
    "ETag": {
        "description": "Of what has ended, and never changes again, for `If-None-Match`",
        "schema": {"type": "string"},
        "example": '"bdfe1ad4a5ee8a3bd2ad0f4b1a3d0f5a0e4d9d27"',
    },
    AUTHENTICATE: {
        "description": "What is wrong with the token, and which scope it lacks (RFC 6750)",
        "schema": {"type": "string"},
        "example": 'Bearer realm="api", error="invalid_token"',
    },
    PREFERENCE_APPLIED: {
        "description": "The wait that was applied, in seconds, if the request preferred one",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
        "example": "wait=5",
    },
}


def responses(route: Route, refs: dict[Any, Any]) -> Described:
    """Describe all answers of a route by their status."""
    described = {
        status: answer(status, route, model, refs)
        for status, model in route.answers.items()
        if not isinstance(model, str)
    }
    for status, names in problems(route).items():
        described[status] = problem(status, names, route, refs)
    if route.ends:
        described[304] = {
            "description": "It has ended, and is as the client has it",
            "headers": headers("ETag", "Cache-Control", REQUEST_ID),
        }
    return {str(status): one for status, one in sorted(described.items())}


def answer(status: int, route: Route, model: type[BaseModel], refs: dict[Any, Any]) -> Described:
    """Describe the answer of a request that was carried out."""
    extra = {
        REPLAYED: route.method == "POST",
        "Location": status in (201, 202),
        "Retry-After": status == 202,
        "ETag": route.ends,
        PREFERENCE_APPLIED: route.waits,
        STATE: is_limited(route),
        POLICY: is_limited(route),
    }
    named = named_by_status(examples_of(status, route, model))
    content = {"application/json": {"schema": refs[model, "serialization"], **shown(named)}}
    if route.streams:
        content[sse.CONTENT_TYPE] = {"schema": {"type": "string", "description": STREAM}, "example": STREAM_EXAMPLE}
    return {
        "description": ENDED if 202 in route.answers and status == 201 else ANSWERS[status],
        "headers": headers(*(name for name, is_there in extra.items() if is_there), "Cache-Control", REQUEST_ID),
        "content": content,
    }


def examples_of(status: int, route: Route, model: type[BaseModel]) -> list[Any]:
    """Return examples of an answer: of a list, one page of it; of what may be pending, those of this status."""
    items = model.model_fields.get("items")
    examples = list(model.model_json_schema(mode="serialization").get("examples", []))
    if items is not None and not examples:
        return [{"items": examples_of(status, route, get_args(items.annotation)[0])[:1], "next": None}]
    if 202 in route.answers:
        examples = [one for one in examples if (one["status"] == "pending") == (status == 202)]
    return examples


def named_by_status(examples: list[Any]) -> dict[str, Any]:
    """Return examples of an answer by what sets them apart, if there are several."""
    return {one["status"] if len(examples) > 1 else "the_only": one for one in examples}


def problems(route: Route) -> dict[int, list[str]]:
    """Return the names of the problems that a route may answer with by the status: its own, then those of its kind."""
    found: dict[int, list[str]] = {status: [one] for status, one in route.answers.items() if isinstance(one, str)}

    def add(status: int, *names: str) -> None:
        found.setdefault(status, []).extend(names)

    for status, names in of_tokens(route).items():
        add(status, *names)
    if "<" in route.path:
        add(404, "no-such-path")
    if route.body:
        add(400, "malformed-json", "malformed-body")
        for name in ("request-timeout", "body-too-long", "unsupported-media-type"):
            add(COMMON[name].status, name)
    if route.needs is Rule.OPEN and (route.method == "POST" or route.query):
        add(400, "invalid-request")
    if route.body or route.query:
        add(422, "invalid-request")
    if route.method == "POST":
        add(422, "idempotency-key-reused")
    if is_limited(route):
        add(429, "too-many-requests")
    add(500, "internal-error")
    add(503, "unavailable")
    return found


def is_limited(route: Route) -> bool:
    return route.needs is not Rule.SERVICES


def of_tokens(route: Route) -> dict[int, list[str]]:
    """Return the names of the problems of a request whose sender may not send it."""
    if route.needs is Rule.OPEN:
        return {}
    found = {400: ["invalid-request"], 401: ["unauthorized", "invalid-token"]}
    if isinstance(route.needs, Needs):
        found[403] = ["insufficient-scope"]
        if route.needs.missing and 404 not in route.answers:
            found[404] = [route.needs.missing().view.type]
    return found


def problem(status: int, names: list[str], route: Route, refs: dict[Any, Any]) -> Described:
    """Describe an answer that is one of several problems, with an example of each."""
    meanings = {name: {**COMMON, **SHOP.meanings}[name].text for name in names}
    several = "\n".join(f"- `{name}`: {text}" for name, text in meanings.items())
    is_own = route.method == "POST" and isinstance(route.answers.get(status), str) and status < 500
    extra = {
        REPLAYED: is_own,
        "Retry-After": status in (429, 503),
        AUTHENTICATE: status in (401, 403),
        STATE: status == 429,
        POLICY: status == 429,
    }
    examples = {name: example_of_problem(status, name, route) for name in names}
    return {
        "description": several if len(names) > 1 else meanings[names[0]],
        "headers": headers(*(name for name, is_there in extra.items() if is_there), "Cache-Control", REQUEST_ID),
        "content": {CONTENT_TYPE: {"schema": refs[ProblemView, "serialization"], **shown(examples)}},
    }


def example_of_problem(status: int, name: str, route: Route) -> Any:
    """Return a problem as the service itself would answer it."""
    made = Problem(status, name, {**COMMON, **SHOP.meanings}[name].text)
    if name == "idempotency-key-reused":
        made = from_exception(KeyReused(), {})
    elif name == "invalid-request" and status == 422:
        made = refusal(route.body or route.query)
    elif name == "too-many-requests":
        made = too_many("The client has sent too many requests.")
    elif name in REFUSALS:
        made = REFUSALS[name](route.needs)
    elif name == "invalid-request" and route.method == "POST":
        made = bad_field(IDEMPOTENCY_KEY, "malformed", "should be 1 to 255 printable ASCII characters", status)
    elif name == "invalid-request" and not route.query:
        made = two_tokens()
    elif name == "invalid-request":
        made = bad_field("limit", "repeated", "is given twice", status)
    with identified(SOME_REQUEST):
        return json.loads(made.response(SHOP.name).get_data())


def refusal(model: type[BaseModel] | None) -> Problem:
    """Return the problem of a request with nothing in it that is right."""
    assert model is not None
    try:
        model.model_validate(UNKNOWN_FIELD)
    except ValidationError as error:
        return invalid(error)
    raise TypeError(f"{model.__name__} does not forbid unknown fields")


def shown(examples: dict[str, Any]) -> Described:
    """Return examples as a document has them: one by itself, several by their names."""
    if len(examples) > 1:
        return {"examples": {name: {"value": one} for name, one in examples.items()}}
    return {"example": next(iter(examples.values()))} if examples else {}


def headers(*names: str) -> Described:
    return {name: {"$ref": HEADER_REF.format(name=name)} for name in names}


def used_headers(paths: Described) -> Described:
    """Return the headers that a document refers to."""
    text = json.dumps(paths)
    return {name: one for name, one in HEADERS.items() if f'"{HEADER_REF.format(name=name)}"' in text}


def first_example(route: Route) -> dict[str, Any]:
    """Return the example of what a route answers when all is well; of a list, its first item."""
    for status, model in sorted(route.answers.items()):
        if not isinstance(model, str) and (examples := examples_of(status, route, model)):
            [*items] = examples[0].get("items", [examples[0]])
            return dict(items[0]) if items else {}
    return {}
