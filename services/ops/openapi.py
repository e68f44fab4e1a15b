"""The OpenAPI 3.1 document of the HTTP API, made from the routes and models of the services themselves."""

import inspect
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from nameko.extensions import ENTRYPOINT_EXTENSIONS_ATTR
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.entrypoint import Http, Route
from services.kit.web.prefer import PREFER
from services.kit.web.problems import ProblemView
from services.kit.web.reading import IDEMPOTENCY_KEY, KEY_PATTERN
from services.kit.web.request_id import REQUEST_ID
from services.kit.web.sse import LAST_EVENT_ID
from services.ops.openapi_answers import first_example, responses, used_headers
from services.shop import DEFAULT_STYLE, INTERNAL, ROUTES, SERVICES, SHOP, STYLES, Style, base_class, service_class

REF = "#/components/schemas/{model}"
USER, SERVICE = "token", "service"  # the names of the schemes
LIMITS = {"ge": "minimum", "le": "maximum"}  # behind a validator pydantic does not translate its own words

ABOUT = """\
Users, billing, orders and notifications behind one base URL.

Amounts are integers in the minor unit of one currency. Times are RFC 3339, in UTC. Errors are problems
(RFC 9457) with a stable `type`. Every POST takes an `Idempotency-Key`: the same key with the same values has
one effect. A repetition gets the first answer with `Idempotent-Replayed: true`, or, of what was still pending
then, its present state.

Tokens are asked for if the setting `AUTH` is `jwt`, as a shop has it; then each operation needs the scope that its
`security` names, or `admin`. Without `admin` a token is good for its own user only, `sub`: what belongs to another one
is not there, and a list holds what is its own. While `AUTH` is `off` there is no 401 and no 403; and no 429 without the
settings `RATE_LIMIT` and `MAX_CONNECTIONS_PER_ADDRESS`.
"""
ABOUT_INTERNAL = """\
What services ask each other in the style `http`. No gateway and no ingress forwards these paths.

Each PUT is under an id that its caller has chosen, so it may be sent again: it is carried out once.
"""


class ForClients(GenerateJsonSchema):
    """Writes schemas as generators of clients read them best.

    Their names are those that a client would choose: `Order` for OrderView, `OrderPage` for Page[OrderView].
    """

    def normalize_name(self, name: str) -> str:
        if short := re.fullmatch(r"(?:(\w+)\[)?(\w+?)(?:View)?\]?", name):
            name = f"{short[2]}{short[1] or ''}"
        return super().normalize_name(name)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out titles, which would only repeat the name of the field."""
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Leave out defaults: a field with one may be missing, and some generators believe that it never is."""
        return {key: value for key, value in super().default_schema(schema).items() if key != "default"}


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
    models.sort(key=lambda one: one[0].__name__)
    refs, definitions = models_json_schema(models, ref_template=REF, schema_generator=ForClients)
    schemas = {name: {key: one[key] for key in one if key != "title"} for name, one in definitions["$defs"].items()}
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
        "components": {"schemas": schemas, "headers": used_headers(paths), "securitySchemes": schemes(internal)},
    }


def schemes(internal: bool) -> dict[str, Any]:
    """Describe who may send a request."""
    if internal:
        secret = "The secret that services share, INTERNAL_TOKEN; if none is set, everybody is let in"
        return {SERVICE: {"type": "http", "scheme": "bearer", "description": secret}}
    token = "A token of the provider that the settings name (RFC 6750), if `AUTH` is `jwt`"
    return {USER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": token}}


def security(needs: Needs | Rule) -> list[dict[str, list[str]]]:
    """Describe what a route needs; nothing, by the last alternative, while AUTH is off."""
    match needs:
        case Needs():
            return [{USER: [needs.scope]}, {}]
        case Rule.SERVICES:
            return [{SERVICE: []}, {}]
        case Rule.OPEN:
            return []


def first_sentence(service: type[Any]) -> str:
    return f"{(service.__doc__ or '').split('.')[0]}."


def operation(method: Callable[..., Any], route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    """Describe one method of one path."""
    described: dict[str, Any] = {
        "operationId": method.__name__,
        "summary": route.summary,
        "description": inspect.getdoc(method) or "",
        "tags": [tag(route)],
        "security": security(route.needs),
        "parameters": parameters(route),
        "responses": responses(route, refs),
    }
    if route.body:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[route.body, "validation"], **example_of(route.body)}},
        }
    return described


def tag(route: Route) -> str:
    """Return the service whose route it is."""
    first = route.path.removeprefix(INTERNAL).strip("/").split("/")[0]
    return ROUTES.get(first, first)


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return an example of a request, made of those of its fields."""
    properties = model.model_json_schema()["properties"]
    example = {name: schema["examples"][0] for name, schema in properties.items() if "examples" in schema}
    return {"example": example} if example.keys() >= set(model.model_json_schema().get("required", [])) else {}


def in_path(name: str, route: Route) -> dict[str, Any]:
    """Describe an id in the path; its example is the id in that of the answer."""
    example = first_example(route)
    described = {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"The id of the {name.removesuffix('_id')}",
        "schema": {"type": "string", "format": "uuid"},
    }
    id_ = example.get(name) or example.get("id")
    return described | ({"example": id_} if id_ else {})


def in_header(name: str, description: str, **schema: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def parameters(route: Route) -> list[dict[str, Any]]:
    """Describe the values in the path and in the query, the Idempotency-Key of a POST, and the wait."""
    found = [in_path(name, route) for name in re.findall(r"<uuid:(\w+)>", route.path)]
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
        what = "One effect for each key, however often the request is sent; quoted or bare"
        found.append(in_header(IDEMPOTENCY_KEY, what, pattern=f"^({KEY_PATTERN})$"))
    what = "The id under which the request is logged; made if there is none that can be used"
    found.append(in_header(REQUEST_ID, what))
    if route.streams:
        what = "The `id` of the last event that came, as a browser sends it; it counts before `after`"
        found.append(in_header(LAST_EVENT_ID, what))
    if route.ends:
        found.append(in_header("If-None-Match", "The ETag of what the client has"))
    if route.waits:
        what = "`wait=N` waits up to N seconds for the outcome (RFC 7240); anything else is ignored"
        found.append({**in_header(PREFER, what), "example": "wait=5"})
    return found
