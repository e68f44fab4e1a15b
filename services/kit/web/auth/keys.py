"""The keys by which tokens are checked: one that is shared with who signs them, or a set that a provider publishes.

A set (RFC 7517) is kept, and read again each REFRESH_S, beside the requests. So a key that is added or taken away is
noticed without a restart. While the provider is away the keys that it had are used, for STALE_S. A token that names an
unknown key has the set read at once, but only if the last time is UNKNOWN_S ago: who makes up names of keys does not
make us ask more often.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import eventlet
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from eventlet import Timeout
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from services.kit.config import BadConfiguration, Settings
from services.kit.errors import Unavailable
from services.kit.outage import Outage

REFRESH_S = 60.0
AGAIN_S = 1.0  # after a failure
UNKNOWN_S = 10.0
STALE_S = 86_400.0
SET_LIMIT_BYTES = 2**18
RSA_BITS = 2048  # the least that RFC 7518, section 3.3, takes
RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
PUBLIC_PARTS = ("kty", "n", "e", "crv", "x", "y")


class Key(NamedTuple):
    """A key, and the algorithms that it may be used with."""

    key: Any
    algorithms: frozenset[str]


KeySet = Mapping[str | None, Key]


class Keys:
    """The keys that `read` returns. Raises Unavailable while there are none, and `read` fails with one, or an OSError.

    A ValueError of `read` is a failure as well: what it has read is no set of keys.
    """

    def __init__(self, read: Callable[[], KeySet], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._set: KeySet | None = None
        self._read_at = self._tried_at = float("-inf")
        self._under_way: eventlet.greenthread.GreenThread | None = None
        self._outage = Outage("reading the keys of tokens", "their provider")

    def current(self) -> KeySet:
        """Return the set as it is known now; it is another object if it has changed. Raises Unavailable."""
        age_s = self._clock() - self._read_at
        if self._set is None or age_s > STALE_S:
            self._set = None
            if self._may_try(AGAIN_S):
                self._refresh().wait()
            if self._set is None:
                raise Unavailable("the keys of tokens are not known")
        elif age_s > REFRESH_S and self._may_try(AGAIN_S):
            self._refresh()
        return self._set

    def find(self, id_: str | None) -> Key | None:
        """Return the key with this id, or None; without an id, the only key that there is."""
        found = _find(self.current(), id_)
        if found is None and self._may_try(UNKNOWN_S):
            self._refresh().wait()
            found = _find(self.current(), id_)
        return found

    def _may_try(self, pause_s: float) -> bool:
        """Return whether the last attempt is so long ago, or is still under way, so that waiting costs nobody more."""
        return self._under_way is not None or self._clock() - self._tried_at > pause_s

    def _refresh(self) -> Any:
        """Return the green thread that reads the set: one for all who want to know."""
        if self._under_way is None:
            self._tried_at = self._clock()
            self._under_way = eventlet.spawn(self._read_once)
        return self._under_way

    def _read_once(self) -> None:
        try:
            read = self._read()
            if read != self._set:  # else whoever remembers the set knows that it is the same
                self._set = read
            self._read_at = self._clock()
            self._outage.end()
        except (Unavailable, OSError, ValueError, HTTPError) as error:
            self._outage.begin(str(error))
        finally:
            self._under_way = None


def _find(keys: KeySet, id_: str | None) -> Key | None:
    if id_ is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(id_)


def read_set(text: bytes, allowed: Iterable[str]) -> KeySet:
    """Return the keys of a set that can be used with one of the algorithms that are allowed, by their ids.

    Others are passed over. Raises ValueError if there is none.
    """
    try:
        listed = json.loads(text)["keys"]
        found = {one.get("kid"): key for one in listed if (key := _usable(one, frozenset(allowed)))}
    except (AttributeError, KeyError, TypeError, RecursionError):
        raise ValueError("it is no set of keys") from None
    if not found:
        raise ValueError("it has no key that can be used")
    return found


def _usable(jwk: Mapping[str, Any], allowed: frozenset[str]) -> Key | None:
    """Return a public key of a set, or None if it may not, or cannot, check a signature by what is allowed."""
    fitting = RSA if jwk["kty"] == "RSA" else {CURVES.get(jwk.get("crv", ""))}
    algorithms = allowed & fitting & {jwk.get("alg", one) for one in allowed}
    if not algorithms or jwk.get("use", "sig") != "sig":
        return None
    try:
        key = PyJWK({part: jwk[part] for part in PUBLIC_PARTS if part in jwk}, min(algorithms)).key
    except (PyJWTError, ValueError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
        return None
    return Key(key, algorithms)


def keys_of(settings: Settings) -> Keys:
    """Return the keys that the settings name. Raises BadConfiguration if they name a file that has none."""
    if settings.AUTH_KEY:
        shared: KeySet = {None: Key(settings.AUTH_KEY.get_secret_value().encode(), frozenset(settings.algorithms))}
        return Keys(lambda: shared)
    place = settings.AUTH_JWKS or ""
    if "://" in place:
        return Keys(partial(_download, PoolManager(), place, settings.RPC_TIMEOUT_S, settings.algorithms))
    read = partial(_read_file, Path(place), settings.algorithms)
    try:
        read()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadConfiguration(f"config.yaml: AUTH_JWKS: the file cannot be used: {why}") from None
    return Keys(read)


def _read_file(file: Path, allowed: Iterable[str]) -> KeySet:
    with file.open("rb") as opened:
        return read_set(_within_limit(opened.read(SET_LIMIT_BYTES + 1)), allowed)


def _download(pool: PoolManager, url: str, timeout_s: float, allowed: Iterable[str]) -> KeySet:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    with Timeout(timeout_s, Unavailable(f"no answer in {timeout_s:g} s")):
        got = pool.request("GET", url, headers=headers, retries=False, redirect=False, preload_content=False)
        with closing(got) as response:
            if response.status != 200:
                raise Unavailable(f"the answer is {response.status}")
            text = response.read(SET_LIMIT_BYTES + 1)
    return read_set(_within_limit(text), allowed)


def _within_limit(text: bytes) -> bytes:
    if len(text) > SET_LIMIT_BYTES:
        raise ValueError(f"it is longer than {SET_LIMIT_BYTES} bytes")
    return text
