"""A reader of an OpenAPI document, and a client made from it, find everything described, typed and shown by example."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from werkzeug.http import HTTP_STATUS_CODES

from services.kit.web import sse
from services.kit.web.catalogue import COMMON
from services.problems import MEANINGS
from services.shop import SHOP
from tests.docs.idl import OPENAPI, Json, follow, load, validator

PROBLEM = "application/problem+json"
MEANING = {**COMMON, **MEANINGS}
TYPE = f"urn:{SHOP.name}:problem:"


class Answer(NamedTuple):
    """An answer in a document, with the operation that gives it."""

    where: str
    operation: Json
    status: int
    described: Json


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def answers(document: Json) -> Iterator[Answer]:
    for where, operation in operations(document):
        for status, described in operation["responses"].items():
            yield Answer(f"{where}: {status}", operation, int(status), described)


def examples(content: Json) -> list[Any]:
    return [one["value"] for one in content.get("examples", {}).values()] or [content["example"]]


@pytest.fixture(params=OPENAPI)
def document(request: pytest.FixtureRequest) -> Json:
    return load(OPENAPI[request.param])


def test_each_operation_has_an_id_of_its_own_and_says_what_it_does(document: Json):
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids) and all(id_.isidentifier() for id_ in ids)
    for where, operation in operations(document):
        assert operation["summary"] and operation["description"], where
        for one in operation["parameters"]:
            assert one["description"] and follow(document, one["schema"])["type"], (where, one)


def test_an_id_in_a_path_has_an_example():
    for where, operation in operations(load(OPENAPI["clients"])):
        assert all(one["example"] for one in operation["parameters"] if one["in"] == "path"), where


def test_each_request_is_typed():
    document = load(OPENAPI["clients"])
    for where, operation in operations(document):
        if "requestBody" in operation:
            [content] = operation["requestBody"]["content"].values()
            for example in examples(content):
                check(document, where, content, example)


def test_each_answer_is_typed_and_has_examples(document: Json):
    clients = document["info"]["title"] == SHOP.name
    for answer in answers(document):
        assert answer.described["description"], answer.where
        contents = dict(answer.described.get("content", {}))
        if stream := contents.pop(sse.CONTENT_TYPE, None):  # which is text, beside the JSON
            assert stream["schema"]["type"] == "string" and stream["schema"]["description"] and stream["example"]
        assert len(contents) == 1 or answer.status in (204, 304), answer.where
        for content in contents.values():
            assert content["schema"]["$ref"], answer.where
            if clients or answer.status >= 400:
                for example in examples(content):
                    check(document, answer.where, content, example)


def check(document: Json, where: str, content: Json, example: Json) -> None:
    schema = follow(document, content["schema"])
    validator(document, schema).validate(example)
    assert example.keys() <= schema["properties"].keys(), where


def test_each_problem_is_shown_with_its_own_type_and_status(document: Json):
    for answer in answers(document):
        if answer.status < 400:
            continue
        [(type_, content)] = answer.described["content"].items()
        assert type_ == PROBLEM, answer.where
        for example in examples(content):
            name = example["type"].removeprefix(TYPE)
            assert (example["status"], example["title"]) == (answer.status, HTTP_STATUS_CODES[answer.status])
            assert MEANING[name].status == answer.status or name == "invalid-request", answer.where
            assert example["help"].endswith(f"#{name}"), answer.where
            assert bool(example.get("errors")) == (answer.status in (400, 422) and not name.startswith("malformed"))


def test_what_a_route_refuses_stands_in_its_example():
    document = load(OPENAPI["clients"])
    body = document["paths"]["/users"]["post"]["responses"]["422"]["content"][PROBLEM]["examples"]
    assert [one["field"] for one in body["invalid-request"]["value"]["errors"]] == ["name", "email", "colour"]


def test_the_headers_of_answers_are_described(document: Json):
    for answer in answers(document):
        headers = {name: follow(document, one) for name, one in answer.described["headers"].items()}
        assert all(one["description"] and one["schema"]["type"] and one["example"] for one in headers.values())
        expected = {"X-Request-Id", "Cache-Control"}
        if answer.status in (202, 503):
            expected.add("Retry-After")
        if answer.status == 304:
            expected.add("ETag")
        assert expected <= headers.keys(), answer.where


def test_each_schema_and_each_of_its_fields_is_described():
    for name, schema in load(OPENAPI["clients"])["components"]["schemas"].items():
        assert name.isalnum() and not name.endswith("View"), "two models have one name"
        assert schema["description"], name
        assert schema["type"] in ("object", "string"), name
        for field, its in schema.get("properties", {}).items():
            assert its["description"], (name, field)
            options = [one for one in its.get("anyOf", [its]) if one != {"type": "null"}]
            assert len(options) == 1 and ("$ref" in options[0] or options[0]["type"]), (name, field)
