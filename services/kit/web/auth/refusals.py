"""The answers to a request whose sender may not send it. (RFC 6750, section 3.)"""

from services.kit.web.problems import FieldError, Problem

REALM = 'Bearer realm="api"'
AUTHENTICATE = "WWW-Authenticate"


def no_token(why: str = "The request has no token.") -> Problem:
    """Return the problem of a request that says nothing of its sender, or nothing that we understand."""
    return Problem(401, "unauthorized", why, headers={AUTHENTICATE: REALM})


def invalid_token(why: str) -> Problem:
    """Return the problem of a token that is not, or no longer, good."""
    return Problem(401, "invalid-token", f"The token {why}.", headers={AUTHENTICATE: f'{REALM}, error="invalid_token"'})


def two_tokens() -> Problem:
    """Return the problem of a request of which nobody can say whose it is."""
    error = FieldError(field="Authorization", code="repeated", message="is given twice")
    headers = {AUTHENTICATE: f'{REALM}, error="invalid_request"'}
    return Problem(400, "invalid-request", "Authorization: is given twice", [error], headers)


def insufficient_scope(scope: str) -> Problem:
    """Return the problem of a good token that lacks `scope`."""
    challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
    return Problem(403, "insufficient-scope", f"The token lacks the scope {scope}.", headers={AUTHENTICATE: challenge})
