"""The documents of the API are well-formed and those of the code, and clients see the same API in all styles."""

import pytest
from openapi_spec_validator import validate

from services.ops import asyncapi
from services.ops.openapi import document
from services.shop import STYLES
from tests.docs.idl import ASYNCAPI, OPENAPI, follow, load, validator


@pytest.mark.parametrize("name", OPENAPI)
def test_openapi_is_well_formed(name: str) -> None:
    loaded = load(OPENAPI[name])
    assert loaded["openapi"].startswith("3.1")
    validate(loaded)


def test_the_committed_documents_are_those_of_the_code() -> None:
    assert OPENAPI["http"].read_text() == document(STYLES["http"], internal=True), "write it anew with `make openapi`"
    for style, path in ASYNCAPI.items():
        assert path.read_text() == asyncapi.document(STYLES[style]), "write it anew with `make asyncapi`"


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
def test_clients_see_the_same_api_in_all_styles(style) -> None:
    assert document(style) == OPENAPI["clients"].read_text()


def test_what_services_call_is_internal_and_only_that() -> None:
    assert all(path.startswith("/internal/") for path in load(OPENAPI["http"])["paths"])
    assert not any(path.startswith("/internal/") for path in load(OPENAPI["clients"])["paths"])


@pytest.mark.parametrize("style", ASYNCAPI)
def test_examples_of_asyncapi_match_their_payloads(style: str) -> None:
    loaded = load(ASYNCAPI[style])
    for name, message in loaded["components"]["messages"].items():
        assert message["examples"], name
        for example in message["examples"]:
            validator(loaded, follow(loaded, message["payload"])).validate(example["payload"])


@pytest.mark.parametrize("style", ASYNCAPI)
def test_operations_use_messages_of_their_own_channel(style: str) -> None:
    for operation in load(ASYNCAPI[style])["operations"].values():
        for reference in operation.get("messages", []):
            assert reference["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_event_collaboration_has_no_event_without_a_publisher_and_a_handler() -> None:
    loaded = load(ASYNCAPI["events"])
    told = {
        (one["action"], ref["$ref"].split("/")[-1]) for one in loaded["operations"].values() for ref in one["messages"]
    }
    events = set(loaded["components"]["messages"])
    assert events == {name for action, name in told if action == "send"}
    assert events == {name for action, name in told if action == "receive"}
