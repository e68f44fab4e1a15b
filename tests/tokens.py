"""A provider of tokens for tests: its keys, the tokens that it signs, and what it publishes."""

import json
import secrets
import time
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://login.example.com", "nameko-hw"
KINDS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


class Provider:
    """Signs tokens by a key of its own, whose public half is in `jwks`; with HS256 by a shared one, which has none."""

    def __init__(self, kid: str = "one", algorithm: str = "ES256", bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key: Any = (
            rsa.generate_private_key(65537, bits)
            if algorithm == "RS256"
            else ed25519.Ed25519PrivateKey.generate()
            if algorithm == "EdDSA"
            else secrets.token_hex(32)
            if algorithm == "HS256"
            else ec.generate_private_key(ec.SECP256R1())
        )

    @property
    def jwk(self) -> dict[str, Any]:
        return {**json.loads(KINDS[self.algorithm].to_jwk(self.key.public_key())), "kid": self.kid, "use": "sig"}

    def jwks(self, *others: "Provider") -> dict[str, Any]:
        return {"keys": [one.jwk for one in (self, *others)]}

    def token(self, sub: object = None, scope: str = "", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a good token, but for what is given; a claim that is None is left out."""
        now = int(time.time())
        good = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "iat": now, "sub": str(sub or uuid4())}
        said = {name: value for name, value in {**good, "scope": scope, **claims}.items() if value is not None}
        header = {"kid": self.kid, "typ": "at+jwt", **(headers or {})}
        kept = {name: value for name, value in header.items() if value is not None}
        return jwt.encode(said, self.key, self.algorithm, headers=kept)
