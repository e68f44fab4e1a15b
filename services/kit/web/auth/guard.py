"""Lets requests in, or refuses them before anything of them is read but the head."""

import hmac
from typing import TYPE_CHECKING

from werkzeug.wrappers import Request

from services.kit.config import Settings
from services.kit.web.auth.caller import ANYBODY, Caller
from services.kit.web.auth.refusals import insufficient_scope, invalid_token, no_token, two_tokens
from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.reading import is_repeated

if TYPE_CHECKING:
    from services.kit.web.auth.verifier import Verifier

AUTHORIZATION = "Authorization"
SCHEME = "bearer"


class Guard:
    """Knows the sender of each request, by a token (RFC 6750) or, of a request of another service, by its secret."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadConfiguration if there are no keys where the settings say."""
        self._verifier = verifier_of(settings) if settings.AUTH == "jwt" else None
        self._internal = settings.INTERNAL_TOKEN

    def admit(self, request: Request, rule: Rule | Needs) -> Caller:
        """Return who sends `request`, if a route with this rule is for them.

        Raises a Problem if not, and Unavailable if that cannot be found out now.
        """
        if rule is Rule.SERVICES:
            if self._internal and not hmac.compare_digest(_token(request), self._internal.get_secret_value()):
                raise invalid_token("is not that of a service")
        elif self._verifier and isinstance(rule, Needs):
            caller = self._verifier.caller(_token(request))
            if not caller.has(rule.scope):
                raise insufficient_scope(rule.scope)
            return caller
        return ANYBODY


def verifier_of(settings: Settings) -> "Verifier":
    """Return what checks tokens. PyJWT and cryptography are loaded only where they are needed."""
    from services.kit.web.auth.verifier import Verifier

    return Verifier(settings)


def _token(request: Request) -> str:
    """Return the token of a request. Raises a Problem if it has none, or two."""
    given = request.headers.get(AUTHORIZATION)
    if given is None:
        raise no_token()
    if is_repeated(request, AUTHORIZATION):
        raise two_tokens()
    scheme, _, token = given.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != SCHEME:
        raise no_token("Authorization: should be a bearer token.")
    if not token.isascii():
        raise invalid_token("is malformed")
    return token
