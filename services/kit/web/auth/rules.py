"""What a route asks of who sends a request: `@http("GET", "/orders", needs=Needs("orders:read", Owner.QUERY), ...)`.

Somebody else's things are not there, rather than forbidden: whoever is forbidden something learns that it exists. So
what belongs to another user than the sender gets the answer that a thing would get that there is not. Where a request
names the user, nothing is even looked for, and no answer and no delay can tell whether there is one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any
from uuid import uuid4

from services.kit.web.auth.caller import ADMIN, Caller
from services.kit.web.auth.refusals import insufficient_scope
from services.kit.web.problems import Problem


class Rule(Enum):
    """Routes that no user's token is for."""

    OPEN = "open"  # to everybody
    SERVICES = "services"  # to other services, by INTERNAL_TOKEN


class Owner(StrEnum):
    """Where a route says whose things it is about."""

    PATH = "user_id in the path"
    BODY = "user_id in the body"
    QUERY = "user_id in the query"  # without it, or with somebody else's, the list is that of the sender, or empty
    ANSWER = "user_id in the answer"  # of a route that only reads
    ONLY = "id in the answer"  # the method gets `only`: the user whose things it may show, None for everybody's


@dataclass(frozen=True)
class Needs:
    """The scope that a token needs, and where the owner of things stands, to whom they are left.

    The scope `admin` stands for each scope, and for each owner. `missing` is the answer about what is not there.
    """

    scope: str
    owner: Owner | None = None
    missing: Callable[[], Problem] | None = None

    def __post_init__(self) -> None:
        if (self.owner in (Owner.PATH, Owner.BODY, Owner.ANSWER)) != (self.missing is not None):
            raise TypeError(f"{self.scope}: `missing` goes with an owner in the path, the body or the answer")

    def narrow(self, caller: Caller, arguments: dict[str, Any]) -> None:
        """Leave in the arguments of a method what the caller may see. Raise `missing` if a thing is somebody else's."""
        match self.owner:
            case Owner.PATH:
                self._check(caller.owns(arguments["user_id"]))
            case Owner.BODY:
                user_id = arguments["body"].user_id
                if user_id is None and not caller.sees_all:
                    raise insufficient_scope(ADMIN)  # there is nobody to hide
                self._check(caller.owns(user_id))
            case Owner.QUERY if not caller.sees_all:
                asked = arguments["query"].user_id
                owner = caller.user_id if asked in (None, caller.user_id) else None
                arguments["query"] = arguments["query"].model_copy(update={"user_id": owner or uuid4()})  # or nobody
            case Owner.ONLY:
                arguments["only"] = None if caller.sees_all else caller.user_id or uuid4()

    def show(self, caller: Caller, body: Any) -> None:
        """Raise `missing` if what a method has found is somebody else's."""
        if self.owner is Owner.ANSWER:
            self._check(caller.owns(body.user_id))

    def _check(self, is_own: bool) -> None:
        if not is_own:
            assert self.missing
            raise self.missing()
