"""Every type of problem that a client may meet, and what is said of a field. The page /docs/problems lists them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema


class Meaning(NamedTuple):
    """The status with which a type of problem comes, and what it means to a client."""

    status: int
    text: str


#: The types that any product of the kit may answer with, by the name at the end of `type`.
COMMON: Mapping[str, Meaning] = {
    "malformed-request": Meaning(400, "The request is not well-formed HTTP."),
    "malformed-json": Meaning(400, "The body is not well-formed JSON in UTF-8."),
    "malformed-body": Meaning(400, "The body could not be read to its end. Send it again."),
    "invalid-request": Meaning(
        422,
        "A field, a parameter or a header is wrong; `errors` names each. Nothing was changed. "
        "(A header, or what is given twice: 400.)",
    ),
    "idempotency-key-reused": Meaning(
        422, "The Idempotency-Key was used before for a request with other values. Nothing was changed."
    ),
    "unauthorized": Meaning(401, "The request has no token. Send one as `Authorization: Bearer ...`."),
    "invalid-token": Meaning(401, "The token cannot be used: `detail` says why. Get another one."),
    "insufficient-scope": Meaning(
        403, "The token may not do this; `scope` in `WWW-Authenticate` names the scope that it lacks."
    ),
    "no-such-path": Meaning(404, "There is nothing at this path."),
    "method-not-allowed": Meaning(405, "The resource does not allow this method; `Allow` says which it does."),
    "request-timeout": Meaning(408, "The request did not arrive in time. Send it again."),
    "body-too-long": Meaning(413, "The body is longer than the limit."),
    "too-many-requests": Meaning(
        429,
        "The client has sent too many requests, or has too many connections. Nothing was done: send it again after "
        "`Retry-After` seconds.",
    ),
    "head-too-long": Meaning(431, "The headers and the path together are longer than 64 KiB."),
    "unsupported-media-type": Meaning(415, "The body is not `application/json`."),
    "internal-error": Meaning(500, "Something went wrong on our side; it has been logged."),
    "unavailable": Meaning(
        503,
        "Something that is needed does not answer now. The request may have been carried out: send it again with the "
        "same Idempotency-Key, or, without one, look first at what it was to change.",
    ),
    "not-ready": Meaning(503, "`/health/ready` only: the service cannot work now, or is stopping."),
}

#: What is wrong with a field: its code, and the sentence about it, by pydantic's own names of errors.
SENTENCES: Mapping[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is not known here"),
    "uuid_parsing": ("uuid", "should be a UUID like 2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11"),
    "uuid_type": ("uuid", "should be a UUID like 2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11"),
    "int_type": ("integer", "should be a whole number"),
    "int_parsing": ("integer", "should be a whole number"),
    "int_from_float": ("integer", "should be a whole number"),
    "greater_than_equal": ("too_small", "should be {ge} or more"),
    "less_than_equal": ("too_large", "should be {le} or less"),
    "string_type": ("text", "should be text"),
    "string_too_long": ("too_long", "should have {max_length} characters at the most"),
    "string_pattern_mismatch": ("malformed", "is not of the form that the documentation shows"),
    "enum": ("unknown_value", "should be one of {expected}"),
    "model_type": ("object", "should be a JSON object"),
    "model_attributes_type": ("object", "should be a JSON object"),
}


def said_of(error: ErrorDetails) -> tuple[str, str]:
    """Return the code and the sentence for what a model refuses; a validator of ours has its own sentence."""
    if error["type"] == "value_error":
        return "invalid", error["msg"].removeprefix("Value error, ")
    if error["type"] in SENTENCES:
        code, sentence = SENTENCES[error["type"]]
        return code, sentence.format(**error.get("ctx", {}))
    return error["type"], error["msg"]


class Says:
    """An annotation: what is said of a field, whatever is wrong with it. `Annotated[str, Field(...), Says(...)]`."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code, self.sentence = code, sentence

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def checked(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError:
                raise PydanticCustomError(self.code, self.sentence) from None

        return core_schema.no_info_wrap_validator_function(checked, handler(source))
