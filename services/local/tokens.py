"""Tokens of the local modes: signed by a key that is made on first use, and taken by what runs here with AUTH=jwt.

It stands in for a provider. `nameko-hw token` prints such tokens; the demo and the page get theirs by themselves.
"""

import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from services.ops.running import ROOT

ISSUER, AUDIENCE = "nameko-hw token", "nameko-hw"
ALGORITHM, KID = "ES256", "local"
PRIVATE, PUBLIC, SECRET = "key.json", "keys.json", "internal-token"  # the last is for services that speak HTTP
VALID_S = 12 * 3600
NOBODY = "whoever-runs-it"  # the subject of an admin's token


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the key is kept: below NAMEKO_HW_FOLDER, or in .run."""
    return Path(environ.get("NAMEKO_HW_FOLDER", ROOT / ".run")) / "tokens"


def settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables that are missing for services to take tokens of our own key, if AUTH is jwt.

    Nothing is added where other keys are given.
    """
    if environ.get("AUTH") != "jwt":
        return {}
    where = folder(environ)
    found = {}
    if not environ.get("AUTH_JWKS") and not environ.get("AUTH_KEY"):
        public = where / PUBLIC
        _replace(public, json.dumps({"keys": [_public(where)]}), 0o644)
        found = {"AUTH_JWKS": str(public), "AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE}
    if not environ.get("INTERNAL_TOKEN"):
        found["INTERNAL_TOKEN"] = _kept(where / SECRET, secrets.token_urlsafe(32))
    return found


def token(subject: str, scope: str, valid_s: float = VALID_S, environ: Mapping[str, str] = os.environ) -> str:
    """Return a token of the local key."""
    import jwt

    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": scope, "iat": now, "exp": now + int(valid_s)}
    return jwt.encode(claims, jwt.PyJWK(_key(folder(environ)), ALGORITHM), ALGORITHM, headers={"kid": KID})


def admins_token(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return a token for everything, if the services that have this environment take one of the local key."""
    is_ours = environ.get("AUTH") == "jwt" and environ.get("AUTH_ISSUER") == ISSUER
    return token(NOBODY, "admin", environ=environ) if is_ours else None


def _key(where: Path) -> dict[str, str]:
    """Return the key with its private half, which is made if there is none."""
    file = where / PRIVATE
    if not file.exists():
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from jwt.algorithms import ECAlgorithm

        _kept(file, str(ECAlgorithm.to_jwk(generate_private_key(SECP256R1()))))
    key: dict[str, str] = json.loads(file.read_text())
    return key


def _public(where: Path) -> dict[str, str]:
    key = _key(where)
    return {part: key[part] for part in ("kty", "crv", "x", "y")} | {"kid": KID, "alg": ALGORITHM, "use": "sig"}


def _kept(file: Path, text: str) -> str:
    """Return what a file holds that only we may read; it gets `text` if there is none. Whoever is first decides."""
    if not file.exists():
        new = file.with_name(f"{file.name}.{os.getpid()}")
        _replace(new, text, 0o600)
        try:
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return file.read_text()


def _replace(file: Path, text: str, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as opened:
        opened.write(text)
    new.replace(file)
