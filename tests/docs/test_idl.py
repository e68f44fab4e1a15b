"""The IDL of the three styles is well-formed, its examples are true, and clients see one and the same API."""

import pytest
from openapi_spec_validator import validate

from tests.docs.idl import ASYNCAPI, OPENAPI, bodies, follow, load, media_examples, validator

DESIGNED = ["http", "event-collaboration"]


@pytest.mark.parametrize("style", OPENAPI)
def test_openapi_is_well_formed(style: str) -> None:
    document = load(OPENAPI[style])
    assert document["openapi"].startswith("3.1")
    validate(document)


@pytest.mark.parametrize("style", DESIGNED)
def test_examples_of_openapi_match_their_schemas(style: str) -> None:
    document = load(OPENAPI[style])
    examples = list(media_examples(document))
    assert len(examples) > 10
    for schema, example in examples:
        validator(document, schema).validate(example)


@pytest.mark.parametrize("style", DESIGNED)
def test_every_request_and_good_answer_of_openapi_has_an_example(style: str) -> None:
    document = load(OPENAPI[style])
    for path in document["paths"].values():
        for operation in (one for method, one in path.items() if method in ("get", "post", "put")):
            answers = [one for status, one in operation["responses"].items() if status < "300"]
            for one in answers + ([operation["requestBody"]] if "requestBody" in operation else []):
                media = follow(document, one)["content"]["application/json"]
                assert "example" in media or "examples" in media, operation["operationId"]


@pytest.mark.parametrize("style", ASYNCAPI)
def test_examples_of_asyncapi_match_their_payloads(style: str) -> None:
    document = load(ASYNCAPI[style])
    for name, message in document["components"]["messages"].items():
        if name.endswith(".aside"):  # any payload
            continue
        assert message["examples"], name
        for example in message["examples"]:
            validator(document, follow(document, message["payload"])).validate(example["payload"])


@pytest.mark.parametrize("style", ASYNCAPI)
def test_operations_use_messages_of_their_own_channel(style: str) -> None:
    document = load(ASYNCAPI[style])
    for operation in document["operations"].values():
        for reference in operation.get("messages", []):
            assert reference["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


@pytest.mark.parametrize("style", DESIGNED)
def test_clients_send_and_get_the_same_fields_as_in_the_style_that_is_built(style: str) -> None:
    designed, built = load(OPENAPI[style]), load(OPENAPI["broker"])
    compared = 0
    for path, methods in designed["paths"].items():
        for method, operation in methods.items():
            same = built["paths"].get(path, {}).get(method)
            if same is None:
                continue
            ours = dict(bodies(built, same))
            for name, schema in bodies(designed, operation):
                assert set(schema["properties"]) == set(ours[name]["properties"]), (path, method, name)
                compared += 1
    assert compared >= 9


def test_event_collaboration_has_no_message_without_a_publisher_and_a_handler() -> None:
    document = load(ASYNCAPI["event-collaboration"])
    actions = {(follow(document, one["channel"])["address"], one["action"]) for one in document["operations"].values()}
    for channel in document["channels"].values():
        assert {(channel["address"], "send"), (channel["address"], "receive")} <= actions
