"""Whether a token is good: a JWT (RFC 7519), as RFC 8725 and RFC 9068 have it checked."""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from uuid import UUID

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from services.kit.config import Settings
from services.kit.web.auth.caller import Caller
from services.kit.web.auth.keys import Keys, KeySet, keys_of
from services.kit.web.auth.refusals import invalid_token

TOKEN_LIMIT = 8192  # characters; a head may have 64 KiB
REMEMBERED = 10_000  # tokens, the last ones that came
TYPES = ("jwt", "at+jwt", "application/at+jwt")  # RFC 9068, section 4; a token of another kind is none of ours
REQUIRED = ["exp", "sub", "iss", "aud"]
WHY: tuple[tuple[type[PyJWTError], str], ...] = (
    (ExpiredSignatureError, "has expired"),
    (ImmatureSignatureError, "is not good yet"),
    (InvalidIssuerError, "is of another issuer"),
    (InvalidAudienceError, "is for another audience"),
    (InvalidSignatureError, "has a signature that does not fit"),
    (MissingRequiredClaimError, f"lacks one of {', '.join(REQUIRED)}"),
)


class Verifier:
    """Checks tokens, and remembers those that were good until they end or the keys change."""

    def __init__(self, settings: Settings, keys: Keys | None = None, clock: Callable[[], float] = time.time) -> None:
        """Raises BadConfiguration."""
        self._settings = settings
        self._keys = keys or keys_of(settings)
        self._clock = clock
        self._good: OrderedDict[bytes, tuple[Caller, KeySet]] = OrderedDict()

    def caller(self, token: str) -> Caller:
        """Return whom a token names. Raises a Problem if it is not good, Unavailable if no key is known."""
        if len(token) > TOKEN_LIMIT:
            raise invalid_token(f"is longer than {TOKEN_LIMIT} characters")
        digest = sha256(token.encode("latin-1")).digest()
        keys = self._keys.current()
        known = self._good.get(digest)
        if known and known[1] is keys and self._clock() < known[0].ends:
            self._good.move_to_end(digest)
            return known[0]
        caller = self._checked(token)
        self._good[digest] = caller, self._keys.current()
        while len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        return caller

    def _checked(self, token: str) -> Caller:
        try:
            claims = self._claims(token)
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:  # PyJWT expects no malice
            why = next((why for kind, why in WHY if isinstance(error, kind)), "is malformed")
            raise invalid_token(why) from None
        scope = claims.get("scope", "")
        if not isinstance(scope, str) or not claims["sub"]:
            raise invalid_token("has a claim of another type than it should")
        ends = float(claims["exp"]) + self._settings.AUTH_LEEWAY_S
        return Caller(_user(claims["sub"]), frozenset(scope.split(" ")) - {""}, ends, claims["sub"])

    def _claims(self, token: str) -> dict[str, Any]:
        """Return what a token says. The key is looked up by its name, and decides how the signature is checked."""
        header = jwt.get_unverified_header(token)
        type_, algorithm, id_ = header.get("typ"), header.get("alg"), header.get("kid")
        if type_ is not None and str(type_).lower() not in TYPES:
            raise invalid_token("is of another kind")
        if algorithm not in self._settings.algorithms:
            raise invalid_token("is signed by an algorithm that is not accepted")
        # a shared key has no name, whatever the token calls it
        key = self._keys.find(None if self._settings.AUTH_KEY else id_)
        if key is None or algorithm not in key.algorithms:
            raise invalid_token("is signed by a key that is not known")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self._settings.AUTH_AUDIENCE,
            issuer=self._settings.AUTH_ISSUER,
            leeway=self._settings.AUTH_LEEWAY_S,
            options={"require": REQUIRED},
        )
        return claims


def _user(subject: str) -> UUID | None:
    """Return the user whom a subject is the id of, if it is one as this system writes it."""
    try:
        id_ = UUID(subject)
    except ValueError:
        return None
    return id_ if str(id_) == subject.lower() else None
