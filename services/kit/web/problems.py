"""Errors as `application/problem+json` (RFC 9457). Every error that a client can see is made here."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from werkzeug.wrappers import Response

from services.contracts import AccountNotFound
from services.kit.db.database import DATABASE_DOWN, TryAgain
from services.kit.db.idempotency import KeyReused

CONTENT_TYPE = "application/problem+json"
REPLAYED = "Idempotent-Replayed"
RETRY_AFTER_S = 1
#: The header of an answer that is not the last word: every 503, and the 202 of what is still pending.
RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
SEND_AGAIN = (
    "Send it again with the same Idempotency-Key; a request without one may have been carried out, "
    "so look first at what it was to change."
)


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemView(BaseModel):
    """An error as the client gets it. `type` is stable; `errors` name the fields of a bad request."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: list[FieldError] = []


class Problem(Exception):
    """An error answer. `name` makes its `type`, `urn:nameko-hw:problem:<name>`."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        errors: Iterable[FieldError] = (),
        headers: dict[str, str] | None = None,
        replayed: bool = False,
    ) -> None:
        super().__init__(detail)
        self.headers = (headers or {}) | ({REPLAYED: "true"} if replayed else {})
        self.view = ProblemView(
            type=f"urn:nameko-hw:problem:{name}",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            errors=list(errors),
        )

    def response(self) -> Response:
        body = self.view.model_dump_json(exclude_defaults=True)
        return Response(body, self.view.status, self.headers, content_type=CONTENT_TYPE)


class Unavailable(Exception):
    """Something that we need did not answer within its deadline, so the outcome is unknown. Try again."""


#: What was asked for may have happened or not. It passes by itself; then asking again under the same id tells.
OUTCOME_UNKNOWN = (Unavailable, *DATABASE_DOWN)
#: What passes by itself, whether or not something was done: nothing is wrong with the request, the event or the row.
PASSING = (*OUTCOME_UNKNOWN, TryAgain)


def account_busy() -> Problem:
    """The problem for an account that somebody else holds, which is known to be as it was."""
    return Problem(
        503,
        "account-busy",
        "The account is busy, and nothing was moved. Send it again, with the same Idempotency-Key if there is one.",
        headers=RETRY_AFTER,
    )


def not_found(what: str, replayed: bool = False) -> Problem:
    return Problem(404, "not-found", f"There is no {what}.", replayed=replayed)


def bad_field(field: str, message: str, status: int = 422) -> Problem:
    return Problem(status, "invalid-request", f"{field}: {message}", [FieldError(field=field, message=message)])


def unavailable(why: str = "The service cannot answer now.") -> Problem:
    """The problem for a request whose outcome is unknown, or that may succeed soon."""
    return Problem(503, "unavailable", f"{why} {SEND_AGAIN}", headers=RETRY_AFTER)


def invalid(error: ValidationError) -> Problem:
    """The problem for values that a model refused, with every field named."""
    errors = [
        FieldError(
            field=".".join(str(part) for part in one["loc"]) or "body", message=one["msg"].removeprefix("Value error, ")
        )
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return Problem(422, "invalid-request", "; ".join(f"{one.field}: {one.message}" for one in errors), errors)


def from_exception(error: Exception) -> Problem:
    """The one table from what went wrong to what the client is told. Never the text of an unknown exception."""
    match error:
        case Problem():
            return error
        case KeyReused():
            return Problem(
                422,
                "idempotency-key-reused",
                "Idempotency-Key: it was used before for a request with other values.",
                [FieldError(field="Idempotency-Key", message="was used before with other values")],
            )
        case AccountNotFound():
            return not_found("account of this user")
        case _ if isinstance(error, PASSING):
            return unavailable()
        case _:
            return Problem(500, "internal-error", "Something went wrong on our side; it has been logged.")


def is_expected(error: Exception) -> bool:
    """Whether `error` belongs to a client's mistake or to an outage rather than to a defect of ours."""
    return from_exception(error).view.status != 500
