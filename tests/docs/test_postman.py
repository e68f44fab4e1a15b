"""The Postman collection as a manual: every request says what it shows, and saved responses are those of the API."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from services.kit.web.catalogue import COMMON
from services.kit.web.problems import ProblemView
from services.problems import MEANINGS
from tests.acceptance.newman import COLLECTION, requests_of, without_description
from tests.docs.idl import OPENAPI, follow, load, validator

DOCUMENT = load(OPENAPI["clients"])
COLLECTED = json.loads(COLLECTION.read_text())
SCENARIO, EDGES = COLLECTED["item"]
SAVED = [pytest.param(one, id=request["name"]) for request in requests_of(COLLECTED) for one in request["response"]]
#: What nobody gets by a request on a system that is well.
OUTAGES = {
    "malformed-body",
    "malformed-request",
    "head-too-long",
    "request-timeout",
    "internal-error",
    "unavailable",
    "not-ready",
}
OUTAGES |= {"account-busy"}
#: What nobody gets while AUTH is off, as it is when the responses are saved.
OF_TOKENS = {"unauthorized", "invalid-token", "insufficient-scope"}
#: What nobody gets without RATE_LIMIT.
OF_LIMITS = {"too-many-requests"}

Json = dict[str, Any]


def folders(folder: Json) -> Iterator[Json]:
    for one in folder["item"]:
        if "item" in one:
            yield one
            yield from folders(one)


def operation_of(request: Json) -> Json | None:
    """Return what the API's description says of a request; None for one that no service takes."""
    path = request["url"].removeprefix("{{baseUrl}}").partition("?")[0]
    for template, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", r"{{[$\\w]+}}", template), path):
            return methods.get(request["method"].lower())
    return None


def test_every_request_and_every_folder_says_what_it_shows() -> None:
    described = [COLLECTED["info"], *folders(COLLECTED), *(one["request"] | one for one in requests_of(COLLECTED))]
    assert len(described) > 100
    silent = [
        one["name"] for one in described if not re.fullmatch(r"(?s)[A-Z`1-9].{15,}[.)`]", one.get("description", ""))
    ]
    assert silent == []


def test_every_request_of_the_scenario_has_a_saved_response() -> None:
    assert [one["name"] for one in requests_of(SCENARIO) if not one["response"]] == []


def test_every_problem_that_a_client_can_make_has_a_saved_response() -> None:
    saved = {json.loads(one["body"])["type"].rpartition(":")[2] for one in responses() if one["code"] >= 400}
    of_the_page = {name for name, meaning in MEANINGS.items() if meaning.text.startswith("The page of the local modes")}
    assert saved == {*COMMON, *MEANINGS} - OUTAGES - OF_TOKENS - OF_LIMITS - of_the_page


def test_a_saved_response_is_of_its_request() -> None:
    for request in requests_of(COLLECTED):
        for one in request["response"]:
            assert one["originalRequest"] == without_description(request["request"]), request["name"]


def responses() -> list[Json]:
    return [one for request in requests_of(COLLECTED) for one in request["response"]]


@pytest.mark.parametrize("response", SAVED)
def test_a_saved_response_is_one_of_the_api(response: Json) -> None:
    operation = operation_of(response["originalRequest"])
    if response["code"] in (204, 304):
        assert response["body"] == ""
    elif operation is None:
        assert ProblemView.model_validate_json(response["body"], strict=True).status == response["code"]
    else:
        described = follow(DOCUMENT, operation["responses"][str(response["code"])])
        headers = {one["key"].lower(): one["value"] for one in response["header"]}
        kind = headers["content-type"]
        validator(DOCUMENT, described["content"][kind]["schema"]).validate(json.loads(response["body"]))
        required = {name.lower() for name, header in described.get("headers", {}).items() if header.get("required")}
        assert required <= set(headers)
