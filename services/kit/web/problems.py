"""Errors as `application/problem+json` (RFC 9457). Every error that a client can see is made here."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Request, Response

from services.kit.errors import TEMPORARY, KeyReused
from services.kit.web.answers import JsonResponse
from services.kit.web.catalogue import said_of
from services.kit.web.request_id import request_id

CONTENT_TYPE = "application/problem+json"
REPLAYED = "Idempotent-Replayed"
RETRY_AFTER_S = 1
#: The header of an answer that is not final: every 503, and the 202 of what is still pending.
RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
READS = ("GET", "HEAD")
NO_STORE = {"Cache-Control": "no-store"}  # of what is personal, or changes
SEND_AGAIN = (
    "Send it again with the same Idempotency-Key; a request without one may have been carried out, "
    "so look first at what it was to change."
)


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: Annotated[str, Field(description="The field, its path joined by dots; `body` for all of it")]
    code: Annotated[str, Field(description="What is wrong with it, as a stable name", examples=["required"])]
    message: Annotated[str, Field(description="What is wrong with it, for people")]


class ProblemView(BaseModel):
    """An error as the client gets it. `type` is stable; `errors` name the fields of a bad request."""

    type: Annotated[str, Field(description="What went wrong, as a stable name: read this, not the texts")]
    title: Annotated[str, Field(description="The name of the status")]
    status: Annotated[int, Field(ge=400, le=599, description="The status of the answer")]
    detail: Annotated[str, Field(description="What went wrong, for people")]
    instance: Annotated[
        str, Field(description="Of a 5xx: this very answer; the id at its end is that of `X-Request-Id`")
    ] = ""
    help: Annotated[str, Field(description="Where the type is explained, below the base URL")] = ""
    errors: Annotated[list[FieldError], Field(description="What is wrong with which field of the request")] = []


class Problem(Exception):
    """An error answer. Its `type` is `urn:<product>:problem:<name>`."""

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
        self._given = status, name, detail, errors

    @cached_property
    def view(self) -> ProblemView:
        """The problem as the client gets it; most are made for a case that does not occur."""
        status, name, detail, errors = self._given
        title = HTTP_STATUS_CODES[status]  # those of Python are not the same in all its versions
        return ProblemView(type=name, title=title, status=status, detail=detail, errors=list(errors))

    def response(self, product: str) -> Response:
        """Return the answer as the product called `product` gives it."""
        name = self.view.type
        # a refusal is the same each time that its key is repeated
        id_ = request_id() if self.view.status >= 500 else None
        view = self.view.model_copy(
            update={
                "type": f"urn:{product}:problem:{name}",
                "instance": f"urn:{product}:request:{id_}" if id_ else "",
                "help": f"/docs/problems#{name}",
            }
        )
        body = view.model_dump_json(exclude_defaults=True)
        return JsonResponse(body, view.status, NO_STORE | self.headers, CONTENT_TYPE)


def nothing_here() -> Problem:
    return Problem(404, "no-such-path", "There is nothing at this path.")


def routing_problem(error: HTTPException) -> Problem:
    """Return the problem for a path or a method that nothing serves."""
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Problem(405, "method-not-allowed", f"This resource allows {allowed}.", headers={"Allow": allowed})
    return nothing_here()


def unrouted(request: Request, error: HTTPException, product: str) -> Response:
    """Answer a request whose path or method nothing serves; to OPTIONS, say what is served."""
    problem = routing_problem(error)
    if request.method == "OPTIONS" and "Allow" in problem.headers:
        return Response(status=204, headers=problem.headers)
    return problem.response(product)


def only_reads(request: Request, product: str) -> Response | None:
    """Return the answer to a request for what can only be read; None if the request reads it."""
    return None if request.method in READS else unrouted(request, MethodNotAllowed(READS), product)


def bad_field(field: str, code: str, message: str, status: int = 422) -> Problem:
    error = FieldError(field=field, code=code, message=message)
    return Problem(status, "invalid-request", f"{field}: {message}", [error])


def unavailable(why: str = "The service cannot answer now.") -> Problem:
    """Return the problem for a request whose outcome is unknown, or that may succeed soon."""
    return Problem(503, "unavailable", f"{why} {SEND_AGAIN}", headers=RETRY_AFTER)


def too_many(what: str, wait_s: int = RETRY_AFTER_S) -> Problem:
    """Return the problem for a client that takes more than its part."""
    headers = {"Retry-After": str(wait_s)}
    return Problem(429, "too-many-requests", f"{what} Nothing was done: send it again later.", headers=headers)


def invalid(error: ValidationError) -> Problem:
    """Return the problem for values that a model has refused; it names every field."""
    errors = []
    for one in error.errors(include_url=False, include_input=False):
        code, message = said_of(one)
        field = ".".join(str(part) for part in one["loc"]) or "body"
        errors.append(FieldError(field=field, code=code, message=message))
    return Problem(422, "invalid-request", "; ".join(f"{one.field}: {one.message}" for one in errors), errors)


def from_exception(error: Exception, own: Mapping[type[Exception], Callable[[], Problem]]) -> Problem:
    """Return the problem that the client gets for an error. This is the only such table; `own` is the product's part.

    The text of any other exception is never shown.
    """
    match error:
        case Problem():
            return error
        case KeyReused():
            return Problem(
                422,
                "idempotency-key-reused",
                "Idempotency-Key: it was used before for a request with other values.",
                [FieldError(field="Idempotency-Key", code="reused", message="was used before with other values")],
            )
        case _ if type(error) in own:
            return own[type(error)]()
        case _ if isinstance(error, TEMPORARY):
            return unavailable()
        case _:
            return Problem(500, "internal-error", "Something went wrong on our side; it has been logged.")
