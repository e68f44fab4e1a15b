"""The documents of the API in docs/, and what it takes to check them."""

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPENAPI = {"clients": DOCS / "openapi.json", "http": DOCS / "internal.openapi.json"}
ASYNCAPI = {"broker": DOCS / "asyncapi.json", "events": DOCS / "events.asyncapi.json"}

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
