"""Which tokens are good; every other one is refused, and says why."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any
from uuid import UUID

import jwt
import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from services.kit.config import Settings, check
from services.kit.web.auth.guard import Guard
from services.kit.web.auth.keys import Keys, read_set
from services.kit.web.auth.rules import Needs, Rule
from services.kit.web.auth.verifier import TOKEN_LIMIT, Verifier
from services.kit.web.problems import Problem
from tests.tokens import AUDIENCE, ISSUER, Provider
from tests.unit.kit.test_config import config

PROVIDER = Provider()
KEY = "0123456789abcdef0123456789abcdef"
HOUR_S = 3600  # a run of all tests takes less
USER = UUID("2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11")


def settings(**further: Any) -> Settings:
    of_auth = {"AUTH": "jwt", "AUTH_JWKS": "keys.json", "AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE}
    return check({**config(), **of_auth, **further})


def verifier(*providers: Provider, **further: Any) -> Verifier:
    one = settings(**further)
    text = json.dumps((providers or (PROVIDER,))[0].jwks(*providers[1:])).encode()
    return Verifier(one, Keys(lambda: read_set(text, one.algorithms)))


def with_shared_key(**further: Any) -> Verifier:
    return Verifier(settings(AUTH_JWKS=None, AUTH_KEY=KEY, **further))


def why_not(token: str, by: Verifier | None = None) -> str:
    """Return what is wrong with a token."""
    with pytest.raises(Problem) as caught:
        (by or verifier()).caller(token)
    problem = caught.value
    assert problem.headers["WWW-Authenticate"] == 'Bearer realm="api", error="invalid_token"'
    assert (problem.view.status, problem.view.type) == (401, "invalid-token")
    return problem.view.detail


def signed(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """Return a token as somebody makes it who keeps to no library."""

    def part(one: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=")

    text = part(header) + b"." + part(claims)
    signature = base64.urlsafe_b64encode(hmac.new(key, text, hashlib.sha256).digest()).rstrip(b"=") if key else b""
    return (text + b"." + signature).decode()


def claims() -> dict[str, Any]:
    return jwt.decode(PROVIDER.token(USER, "admin"), options={"verify_signature": False})


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_good_token_names_its_user_and_its_scopes(algorithm):
    provider = Provider(algorithm=algorithm)
    caller = verifier(provider).caller(provider.token(USER, "orders:read orders:write"))
    assert caller.user_id == USER and caller.scopes == {"orders:read", "orders:write"}
    assert caller.subject == str(USER)


def test_a_good_token_of_a_shared_key_is_taken():
    token = jwt.encode(claims(), KEY, "HS256", headers={"kid": "whatever"})
    assert with_shared_key().caller(token).user_id == USER


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"nbf": int(time.time()) + HOUR_S}, "is not good yet"),
        ({"iat": int(time.time()) + HOUR_S}, "is not good yet"),
        ({"iss": "https://other.example.com"}, "is of another issuer"),
        ({"aud": "other"}, "is for another audience"),
        ({"aud": []}, "lacks one of"),
        ({"exp": None}, "lacks one of"),
        ({"iss": None}, "lacks one of"),
        ({"aud": None}, "lacks one of"),
        ({"exp": "soon"}, "is malformed"),
        ({"exp": float("inf")}, "is malformed"),
        ({"scope": ["admin"]}, "has a claim of another type"),
        ({"headers": {"kid": "../../../../etc/passwd"}}, "is signed by a key that is not known"),
        ({"headers": {"kid": "http://169.254.169.254/keys"}}, "is signed by a key that is not known"),
        ({"headers": {"typ": "dpop+jwt"}}, "is of another kind"),
        ({"headers": {"crit": ["x"], "x": 1}}, "is malformed"),
    ],
)
def test_a_token_that_is_not_good_is_refused(wrong, why):
    assert why in why_not(PROVIDER.token(**wrong))


def test_clocks_may_differ_by_the_leeway():
    assert verifier().caller(PROVIDER.token(USER, exp=int(time.time()) - 5)).user_id == USER


@pytest.mark.parametrize("subject", ["a-program", str(USER).replace("-", ""), f"urn:uuid:{USER}", f"{{{USER}}}"])
def test_a_subject_that_is_no_user_owns_nothing(subject):
    caller = verifier().caller(PROVIDER.token(subject))
    assert caller.user_id is None and not caller.owns(USER) and not caller.owns(None)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS256"])
def test_a_token_does_not_choose_how_it_is_checked(algorithm):
    """Such as a signature by HS256 whose key is the text of the public key. (RFC 8725, section 2.1.)"""
    public = json.dumps(PROVIDER.jwk).encode()
    for key in (b"", public):
        assert why_not(signed({"alg": algorithm, "kid": "one", "typ": "JWT"}, claims(), key))


def test_a_token_of_a_public_key_is_not_taken_where_the_key_is_shared():
    assert "an algorithm that is not accepted" in why_not(PROVIDER.token(USER), with_shared_key())


def test_a_key_that_is_kept_in_the_token_is_not_believed():
    other = Provider()
    assert "does not fit" in why_not(other.token(USER, headers={"jwk": other.jwk}))


def test_a_key_is_used_with_its_own_algorithm_only():
    provider = Provider(algorithm="RS256")
    jwk = {**provider.jwk, "alg": "PS256"}
    one = settings(AUTH_ALGORITHMS=["RS256", "PS256"])
    by = Verifier(one, Keys(lambda: read_set(json.dumps({"keys": [jwk]}).encode(), one.algorithms)))
    assert "a key that is not known" in why_not(provider.token(USER), by)


def test_without_a_name_the_only_key_is_meant():
    token = PROVIDER.token(USER, headers={"kid": None})
    assert verifier().caller(token).user_id == USER
    assert "a key that is not known" in why_not(token, verifier(PROVIDER, Provider("two")))


@pytest.mark.parametrize("token", ["", "a.b.c", "a.b.c.d.e", "....", "\x00", "[]", "é".encode().decode("latin-1")])
def test_what_is_no_token_is_refused(token):
    assert "is malformed" in why_not(token)


def test_a_header_that_is_deep_is_malformed():
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    assert "is malformed" in why_not(f"{deep}.e30.e30")


def test_a_token_that_is_too_long_is_not_even_decoded():
    assert "is longer than" in why_not(PROVIDER.token(USER, "x" * TOKEN_LIMIT))


def test_a_token_that_was_good_is_refused_when_it_has_expired():
    clock = [time.time()]
    by = verifier()
    by._clock = lambda: clock[0]
    token = PROVIDER.token(USER, exp=int(time.time()) - 7)  # good for the leeway, some seconds
    assert by.caller(token) is by.caller(token)
    clock[0] += 4
    by._settings = settings(AUTH_LEEWAY_S=0)
    assert "has expired" in why_not(token, by)


# --- Guard: the header ---


def request(*tokens: str) -> Request:
    environ: dict[str, Any] = EnvironBuilder().get_environ()
    environ |= {"HTTP_AUTHORIZATION": ",".join(tokens)} if tokens else {}
    environ["headers_raw"] = tuple(("authorization", one) for one in tokens)
    return Request(environ)


def guard(**further: Any) -> Guard:
    return Guard(settings(AUTH_JWKS=None, AUTH_KEY=KEY, **further))


def refusal(by: Guard, rule: Rule | Needs, *headers: str) -> tuple[int, str, str]:
    with pytest.raises(Problem) as caught:
        by.admit(request(*headers), rule)
    return caught.value.view.status, caught.value.view.type, caught.value.headers["WWW-Authenticate"]


def bearer(scope: str, scheme: str = "Bearer") -> str:
    return f"{scheme} {jwt.encode({**claims(), 'scope': scope}, KEY, 'HS256')}"


READ = Needs("orders:read")


def test_a_request_without_a_token_is_asked_for_one():
    for headers in ((), ("Basic YTpi",), (bearer("admin").removeprefix("Bearer "),)):
        assert refusal(guard(), READ, *headers) == (401, "unauthorized", 'Bearer realm="api"')


def test_two_tokens_are_refused_though_both_are_good():
    status, type_, challenge = refusal(guard(), READ, bearer("admin"), bearer("orders:read"))
    assert (status, type_) == (400, "invalid-request") and 'error="invalid_request"' in challenge


def test_a_token_without_the_scope_is_told_which():
    status, type_, challenge = refusal(guard(), READ, bearer("orders:write orders:reads"))
    assert (status, type_) == (403, "insufficient-scope")
    assert challenge == 'Bearer realm="api", error="insufficient_scope", scope="orders:read"'


@pytest.mark.parametrize("scope", ["orders:read", "billing:read orders:read", "admin"])
def test_a_token_with_the_scope_is_let_in(scope):
    assert guard().admit(request(bearer(scope, "bEaReR")), READ).user_id == USER


def test_an_open_route_asks_nobody():
    assert guard().admit(request(), Rule.OPEN).sees_all


def test_a_route_for_services_takes_their_secret_and_no_token():
    secret = "a-secret-between-services-0123456789"
    by = guard(INTERNAL_TOKEN=secret)
    assert by.admit(request(f"Bearer {secret}"), Rule.SERVICES)
    assert refusal(by, Rule.SERVICES)[:2] == (401, "unauthorized")
    for wrong in (bearer("admin"), f"Bearer {secret}x", "Bearer "):
        assert refusal(by, Rule.SERVICES, wrong)[:2] == (401, "invalid-token")


def test_without_tokens_everybody_is_let_in():
    off = Guard(check(config()))
    assert off.admit(request(), READ).sees_all and off.admit(request(), Rule.SERVICES).sees_all
