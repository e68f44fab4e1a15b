"""The messages in the AsyncAPI document: the schema of each, with examples."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints, is_typeddict

from pydantic import TypeAdapter, create_model

from services.contracts import AccountNotFound, OperationMismatch, Outcome, Payment
from services.kit.errors import InvalidArgument, NotNow
from services.kit.event import Event

JSON = "application/json"
#: An Outcome is a str on the wire, as the annotations of these methods have it; those of the others are exact.
RESULTS: dict[str, Any] = {"pay": Outcome, "pay_all": list[Outcome], "refuse": Outcome}
ERRORS = (AccountNotFound, OperationMismatch, InvalidArgument, NotNow)

ID = "8f0c1c2e-4a57-4b1e-9a5c-6d2f0e7b3a10"
EXAMPLES: dict[str, Any] = {
    "event_id": "0b9f7c64-2c1d-4f0e-8a37-5f3f0c1d9e21",
    "user_id": "70c5c707-9d4f-497c-898a-8964cfa81748",
    "order_id": ID,
    "operation_id": ID,
    "price": 300,
    "amount": 300,
    "email": "ada@example.com",
    "reason": "insufficient_funds",
    "open_account": {"user_id": "70c5c707-9d4f-497c-898a-8964cfa81748", "balance": 0},
    "get_account": {"user_id": "70c5c707-9d4f-497c-898a-8964cfa81748", "balance": 300},
    "pay": "accepted",
    "pay_all": ["accepted"],
    "wait": False,
    "refuse": "refused",
    "user_ids": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
    "open_accounts": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
    "known_users": ["70c5c707-9d4f-497c-898a-8964cfa81748"],
}
EXAMPLES["payments"] = [{name: EXAMPLES[name] for name in Payment.model_fields}]


def references(messages: list[str]) -> dict[str, Any]:
    """Return references to the messages with these names."""
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def event_message(event: type[Event]) -> dict[str, Any]:
    """Describe an event."""
    schema = event.model_json_schema(mode="serialization")
    schema["required"] = list(schema["properties"])  # a producer always sends the event_id
    return {
        "name": event.TYPE,
        "title": event.__name__,
        "summary": first_line(event),
        "contentType": JSON,
        "payload": schema,
        "examples": [{"payload": example(schema["properties"])}],
    }


def request_message(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    """Describe a call of the RPC method `name`."""
    arguments = {key: inline(TypeAdapter(hint).json_schema()) for key, hint in hints(method).items() if key != "return"}
    required = [
        one.name
        for one in inspect.signature(method).parameters.values()
        if one.name in arguments and one.default is inspect.Parameter.empty
    ]
    kwargs = {
        "type": "object",
        "properties": arguments,
        "required": required,
        "description": "Arguments that the service does not know are ignored",
    }
    schema = {
        "type": "object",
        "required": ["args", "kwargs"],
        "additionalProperties": False,
        "properties": {
            "args": {"type": "array", "maxItems": 0, "description": "All arguments are named"},
            "kwargs": kwargs,
        },
    }
    return rpc_message(f"{name}.request", first_line(method), schema, [{"args": [], "kwargs": example(arguments)}])


def reply_message(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    """Describe the reply of the RPC method `name`: a result or an error."""
    result = result_schema(RESULTS.get(method.__name__, hints(method)["return"]))
    paths = [f"{error.__module__}.{error.__name__}" for error in ERRORS]
    error = {
        "type": "object",
        "required": ["exc_type", "exc_path", "exc_args", "value"],
        "properties": {
            "exc_type": {"type": "string", "examples": [error.__name__ for error in ERRORS]},
            "exc_path": {
                "type": "string",
                "examples": paths,
                "description": "Any other error is a defect or an outage",
            },
            "exc_args": {"type": "array"},
            "value": {"type": ["string", "null"]},
        },
    }
    schema = {
        "type": "object",
        "required": ["result", "error"],
        "additionalProperties": False,
        "oneOf": [
            {"properties": {"result": result, "error": {"type": "null"}}},
            {"properties": {"result": {"type": "null"}, "error": error}},
        ],
        "properties": {"result": {}, "error": {}},
    }
    failed = {
        "exc_type": "InvalidArgument",
        "exc_path": paths[2],
        "exc_args": ["user_id: Missing required argument"],
        "value": "user_id: Missing required argument",
    }
    return rpc_message(
        f"{name}.reply",
        f"The result of {name}, or the error that it raised",
        schema,
        [{"result": EXAMPLES[method.__name__], "error": None}, {"result": None, "error": failed}],
    )


def result_schema(result: Any) -> dict[str, Any]:
    """Return the JSON schema of what a method returns."""
    if is_typeddict(result):  # which pydantic takes from Python 3.12 on
        result = create_model(result.__name__, __doc__=result.__doc__, **get_type_hints(result))
    return inline(TypeAdapter(result).json_schema())


def inline(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list with that of its items inside: their reference would hold at the root only."""
    if "$ref" not in schema.get("items", {}):
        return schema
    name = schema["items"]["$ref"].rpartition("/")[2]
    return {**{key: value for key, value in schema.items() if key != "$defs"}, "items": schema["$defs"][name]}


def rpc_message(name: str, summary: str, schema: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "contentType": JSON,
        "correlationId": {
            "location": "$message.header#/correlation_id",
            "description": "AMQP property correlation_id, the same in request and reply",
        },
        "payload": schema,
        "examples": [{"payload": one} for one in examples],
    }


def hints(method: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a method."""
    return get_type_hints(inspect.unwrap(method), include_extras=True)


def example(properties: dict[str, Any]) -> dict[str, Any]:
    """Return an example for each property."""
    return {name: EXAMPLES[name] for name in properties}


def first_line(documented: Any) -> str:
    """Return the first line of a docstring."""
    text = inspect.getdoc(documented)
    assert text
    return text.splitlines()[0]


def details_of(documented: Any) -> dict[str, str]:
    """Return the rest of a docstring as the description of an operation; nothing if there is no more."""
    rest = (inspect.getdoc(documented) or "").partition("\n")[2].strip()
    return {"description": rest} if rest else {}
