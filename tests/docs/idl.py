"""The IDL files of docs/, and what it takes to check them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPENAPI = {
    "http": DOCS / "idl/http.openapi.yaml",
    "broker": DOCS / "openapi.json",
    "event-collaboration": DOCS / "idl/event-collaboration.openapi.yaml",
}
ASYNCAPI = {"broker": DOCS / "asyncapi.json", "event-collaboration": DOCS / "idl/event-collaboration.asyncapi.yaml"}

Json = Any


def load(path: Path) -> Json:
    return yaml.safe_load(path.read_text())


def at(document: Json, reference: str) -> Json:
    """What a reference within `document` points to."""
    found = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def follow(document: Json, node: Json) -> Json:
    """`node`, or what it refers to."""
    while isinstance(node, dict) and "$ref" in node:
        node = at(document, node["$ref"])
    return node


def validator(document: Json, schema: Json) -> Draft202012Validator:
    """Of `schema`, whose references may point into `document` or into itself."""
    whole = {"components": document.get("components", {}), **schema}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def media_examples(node: Json) -> Iterator[tuple[Json, Json]]:
    """Every schema of an OpenAPI document that has examples beside it, with each of them."""
    if isinstance(node, dict):
        if isinstance(node.get("schema"), dict):
            if "example" in node:
                yield node["schema"], node["example"]
            for one in node.get("examples", {}).values():
                yield node["schema"], one["value"]
        for one in node.values():
            yield from media_examples(one)
    elif isinstance(node, list):
        for one in node:
            yield from media_examples(one)


def bodies(document: Json, operation: Json) -> Iterator[tuple[str, Json]]:
    """Name and schema of what an operation takes and of each of its good answers."""
    described = {f"answer {status}": one for status, one in operation["responses"].items() if status < "300"}
    if "requestBody" in operation:
        described["request"] = operation["requestBody"]
    for name, one in described.items():
        yield name, follow(document, follow(document, one)["content"]["application/json"]["schema"])
