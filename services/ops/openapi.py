"""The OpenAPI 3.1 document of the HTTP API, made from the routes and models of the services themselves."""

import inspect
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, get_args

from nameko.extensions import ENTRYPOINT_EXTENSIONS_ATTR
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.kit.web.catalogue import COMMON
from services.kit.web.entrypoint import IDEMPOTENCY_KEY, KEY_PATTERN, Http, Route
from services.kit.web.prefer import PREFER, PREFERENCE_APPLIED
from services.kit.web.problems import CONTENT_TYPE, REPLAYED, FieldError, Problem, ProblemView
from services.kit.web.request_id import REQUEST_ID
from services.shop import DEFAULT_STYLE, INTERNAL, SERVICES, SHOP, STYLES, Style, base_class, service_class

REF = "#/components/schemas/{model}"
LIMITS = {"ge": "minimum", "le": "maximum"}  # behind a validator pydantic does not translate its own words

ABOUT = """\
Users, billing, orders and notifications behind one base URL.

Amounts are integers in the minor unit of one currency. Times are RFC 3339, in UTC. Errors are problems
(RFC 9457) with a stable `type`. Every POST takes an `Idempotency-Key`: the same key with the same values has
one effect and gets the first answer again, with `Idempotent-Replayed: true`.
"""
ABOUT_INTERNAL = """\
What services ask each other in the style `http`. No gateway and no ingress forwards these paths.

Each PUT is under an id that its caller has chosen, so it may be sent again: it is carried out once.
"""
#: What any route may answer with, by the status; a route names its own problems.
ANYWHERE = {
    400: "malformed-json",
    404: "no-such-path",
    408: "request-timeout",
    413: "body-too-long",
    415: "unsupported-media-type",
    422: "invalid-request",
    503: "unavailable",
}
ENDED = "Ended. 201 is not success: read `status`"  # of an answer that may be 202 as well
ANSWERS = {200: "Done", 201: "Created", 202: "Stored, but the outcome of the payment is not known yet"}


def classes(style: Style) -> list[Any]:
    """Return the four Nameko services of a style."""
    return [service_class(name, style) for name in SERVICES]


def routes(style: Style, internal: bool = False) -> list[tuple[Callable[..., Any], Route]]:
    """Return every HTTP route for clients, or for the other services, with its method."""
    found = [(method, http.route) for service in classes(style) for method, http in entrypoints(service, Http)]
    wanted = [one for one in found if one[1].path.startswith(INTERNAL) == internal]
    return sorted(wanted, key=lambda one: (one[1].path, one[1].method))


def entrypoints(service: Any, kind: type[Any]) -> list[tuple[Callable[..., Any], Any]]:
    """Return the methods of a service with an entrypoint of this kind, each with its entrypoint."""
    methods = {name: method for cls in reversed(service.__mro__) for name, method in vars(cls).items()}
    return [
        (method, entrypoint)
        for method in methods.values()
        for entrypoint in getattr(method, ENTRYPOINT_EXTENSIONS_ATTR, ())
        if isinstance(entrypoint, kind)
    ]


def document(style: Style = STYLES[DEFAULT_STYLE], internal: bool = False) -> str:
    """Return the document as JSON text: of the API for clients, the same in all styles, or of the internal one."""
    return json.dumps(as_dict(style, internal), indent=2, ensure_ascii=False) + "\n"


def as_dict(style: Style, internal: bool = False) -> dict[str, Any]:
    all_routes = routes(style, internal)
    bodies = {route.body for _, route in all_routes if route.body}
    answers = {one for _, route in all_routes for one in route.answers.values() if not isinstance(one, str)}
    answers |= {ProblemView}
    models: list[Any] = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    refs, definitions = models_json_schema(sorted(models, key=lambda one: one[0].__name__), ref_template=REF)
    paths: dict[str, Any] = {}
    for method, route in all_routes:
        path = re.sub(r"<uuid:(\w+)>", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = operation(method, route, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nameko-hw, between the services" if internal else "nameko-hw",
            "version": version(SHOP.name),
            "description": ABOUT_INTERNAL if internal else ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "tags": [{"name": name, "description": first_sentence(base_class(name))} for name in SERVICES],
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def first_sentence(service: type[Any]) -> str:
    return f"{(service.__doc__ or '').split('.')[0]}."


def operation(method: Callable[..., Any], route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    """Describe one method of one path."""
    responses = {str(status): answer(status, route, one, refs) for status, one in sorted(route.answers.items())}
    for status in errors(route):
        responses.setdefault(str(status), problem(ANYWHERE[status], refs))
    if route.ends:
        responses["304"] = {"description": "It has ended, and is as the client has it"}
    for one in responses.values():
        one.setdefault("headers", {})[REQUEST_ID] = {
            "description": "Joins this answer to the log of the service; that of the request, if it had one",
            "schema": {"type": "string"},
        }
    described: dict[str, Any] = {
        "operationId": method.__name__,
        "summary": route.summary,
        "description": inspect.getdoc(method) or "",
        "tags": [route.path.removeprefix(INTERNAL).strip("/").split("/")[0]],
        "parameters": parameters(route),
        "responses": dict(sorted(responses.items())),
    }
    if route.body:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[route.body, "validation"], **example_of(route.body)}},
        }
    return described


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return an example of a request, made of those of its fields."""
    properties = model.model_json_schema()["properties"]
    example = {name: schema["examples"][0] for name, schema in properties.items() if "examples" in schema}
    return {"example": example} if example.keys() >= set(model.model_json_schema().get("required", [])) else {}


def examples_of(status: int, route: Route, model: type[BaseModel]) -> list[Any]:
    """Return examples of an answer: of a list, one page of it; of what may be pending, those of this status."""
    items = model.model_fields.get("items")
    if items is not None:
        return [{"items": examples_of(status, route, get_args(items.annotation)[0])[:1], "next": None}]
    examples = list(model.model_json_schema(mode="serialization").get("examples", []))
    if 202 in route.answers:
        examples = [one for one in examples if (one["status"] == "pending") == (status == 202)]
    return examples


def errors(route: Route) -> set[int]:
    """Return the error statuses that every route of this kind may answer with."""
    anywhere = {404, 503} if "<" in route.path else {503}
    if route.body:
        return anywhere | {400, 408, 413, 415, 422}
    return anywhere | ({400, 422} if route.query else set())


def answer(status: int, route: Route, model: type[BaseModel] | str, refs: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(model, str):
        return problem(model, refs)
    headers = {}
    if route.method == "POST":
        headers[REPLAYED] = {
            "description": "The key was used before; this is the first answer",
            "schema": {"type": "string", "const": "true"},
        }
    if status in (201, 202):
        headers["Location"] = {"description": "The path of what was created", "schema": {"type": "string"}}
    if route.ends:
        headers["ETag"] = {
            "description": "Of what has ended, and never changes again, for `If-None-Match`",
            "schema": {"type": "string"},
        }
    if route.waits:
        headers[PREFERENCE_APPLIED] = {
            "description": "The wait that was applied, in seconds, if the request preferred one",
            "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
        }
    described: dict[str, Any] = {
        "description": ENDED if 202 in route.answers and status == 201 else ANSWERS[status],
        "content": {"application/json": {"schema": refs[model, "serialization"], **given(status, route, model)}},
    }
    return described | ({"headers": headers} if headers else {})


def given(status: int, route: Route, model: type[BaseModel]) -> dict[str, Any]:
    """Return the examples of an answer as the document has them: one by itself, several by what they are."""
    examples = examples_of(status, route, model)
    if len(examples) > 1:
        return {"examples": {one["status"]: {"value": one} for one in examples}}
    return {"example": examples[0]} if examples else {}


def problem(name: str, refs: dict[Any, Any]) -> dict[str, Any]:
    """Describe an answer that is a problem, with an example."""
    status, meaning = {**COMMON, **SHOP.meanings}[name]
    given = [FieldError(field="price", code="required", message="is required")] if name == "invalid-request" else []
    detail = "; ".join(f"{one.field}: {one.message}" for one in given) or meaning
    example = json.loads(Problem(status, name, detail, given).response(SHOP.name).get_data())
    schema = refs[ProblemView, "serialization"]
    return {"description": meaning, "content": {CONTENT_TYPE: {"schema": schema, "example": example}}}


def parameters(route: Route) -> list[dict[str, Any]]:
    """Describe the values in the path and in the query, the Idempotency-Key of a POST, and the wait."""
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"<uuid:(\w+)>", route.path)
    ]
    if route.query:
        for name, schema in route.query.model_json_schema(ref_template=REF)["properties"].items():
            schema = {
                LIMITS.get(key, key): value
                for key, value in schema.items()
                if key != "title" and (key != "default" or name == "limit")
            }
            options = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
            described = {"name": name, "in": "query", "description": schema.pop("description")}
            found.append({**described, "schema": schema | (options[0] if options else {})})
    if route.method == "POST":
        found.append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "description": "One effect for each key, however often the request is sent; quoted or bare",
                "schema": {"type": "string", "pattern": f"^({KEY_PATTERN})$"},
            }
        )
    found.append(
        {
            "name": REQUEST_ID,
            "in": "header",
            "description": "The id under which the request is logged; made if there is none that can be used",
            "schema": {"type": "string"},
        }
    )
    if route.ends:
        found.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "The ETag of what the client has",
                "schema": {"type": "string"},
            }
        )
    if route.waits:
        found.append(
            {
                "name": PREFER,
                "in": "header",
                "description": "`wait=N` waits up to N seconds for the outcome (RFC 7240); anything else is ignored",
                "schema": {"type": "string"},
                "example": "wait=5",
            }
        )
    return found
