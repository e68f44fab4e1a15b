"""What the OpenAPI says of a route, without the services."""

from typing import Any

from pydantic import BaseModel

from services.kit.web.auth.rules import Rule
from services.kit.web.entrypoint import Route
from services.kit.web.problems import ProblemView
from services.ops.openapi import operation


class View(BaseModel):
    text: str


def add_thing() -> None:
    """Add a thing."""


REFS: dict[Any, Any] = {(View, "serialization"): {}, (ProblemView, "serialization"): {}}


def described(waits: bool) -> tuple[list[str], dict[str, bool]]:
    """Return the names of the parameters, and which answers say what was applied."""
    route = Route("POST", "/things", Rule.OPEN, answers={201: View, 202: View, 404: "order-not-found"}, waits=waits)
    found = operation(add_thing, route, REFS)
    answers = {one: "Preference-Applied" in answer.get("headers", {}) for one, answer in found["responses"].items()}
    return [one["name"] for one in found["parameters"]], answers


def test_a_route_that_waits_takes_the_preference_and_says_that_it_was_applied():
    assert described(waits=True) == (
        ["Idempotency-Key", "X-Request-Id", "Prefer"],
        {"201": True, "202": True, "400": False, "404": False, "422": False, "429": False, "500": False, "503": False},
    )


def test_any_other_route_does_not():
    assert described(waits=False) == (
        ["Idempotency-Key", "X-Request-Id"],
        dict.fromkeys(("201", "202", "400", "404", "422", "429", "500", "503"), False),
    )
