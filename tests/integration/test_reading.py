"""What is only read: compressed, asked for by its tag, by HEAD, and never by anything that would change it."""

import pytest
import requests

from services.local.stack import Stack
from tests.client import Api

FILES = ("/docs", "/docs/problems", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/openapi.json")
HEALTH = ("/health/live", "/health/ready", "/metrics")


@pytest.fixture(params=["gateway", "users"])
def base(request: pytest.FixtureRequest, stack: Stack) -> str:
    """The base URL of the gateway, and the one of a service behind it."""
    return stack.url if request.param == "gateway" else f"http://127.0.0.1:{stack.ports[request.param][0]}"


def ask(url: str, method: str = "GET", **headers: str | None) -> requests.Response:
    """Send a request without the Accept-Encoding that the library would add."""
    sent = {"Accept-Encoding": None, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.request(method, url, headers=sent, timeout=15)


@pytest.mark.parametrize("path", FILES)
def test_the_documentation_is_compressed_for_whom_that_helps(base: str, path: str):
    plain, packed = ask(base + path), ask(base + path, Accept_Encoding="gzip")
    assert plain.content == packed.content
    assert "Content-Encoding" not in plain.headers
    if len(plain.content) < 4096:
        assert "Content-Encoding" not in packed.headers
        return
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_the_documentation_is_not_sent_again_to_whom_has_it(base: str, path: str, encoding: str | None):
    first = ask(base + path, Accept_Encoding=encoding)
    again = ask(base + path, Accept_Encoding=encoding, If_None_Match=first.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    kept = "public, max-age=86400" if "swagger-ui" in path else "no-cache"
    assert first.headers["Cache-Control"] == again.headers["Cache-Control"] == kept
    assert ask(base + path, If_None_Match='"other"').status_code == 200


def test_a_long_page_of_a_list_is_compressed_and_a_short_answer_is_not(stack: Stack, api: Api):
    user_id = api.new_user(balance=100)["id"]
    for _ in range(30):
        api.deposit(user_id, 1)
    path = f"{stack.url}/billing/accounts/{user_id}/operations"
    long, short = ask(path, Accept_Encoding="gzip"), ask(f"{path}?limit=5", Accept_Encoding="gzip")
    assert long.headers["Content-Encoding"] == "gzip" and long.headers["Vary"] == "Accept-Encoding"
    assert "Content-Encoding" not in short.headers and "Vary" not in short.headers
    assert long.json() == ask(path).json()
    assert "Content-Encoding" not in ask(path, Accept_Encoding="gzip;q=0").headers
    assert long.headers["Cache-Control"] == "no-store"


def test_head_answers_what_get_does_without_the_body(base: str, api: Api):
    user_id = api.new_user()["id"]
    for path in (*FILES, "/health/live", "/health/ready", f"/users/{user_id}", "/users/nobody", "/nowhere"):
        head, get = ask(base + path, "HEAD"), ask(base + path)
        assert head.status_code == get.status_code and head.content == b"", path
        assert head.headers["Content-Length"] == str(len(get.content)), path


@pytest.mark.parametrize("path", [*HEALTH, "/docs", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_what_is_only_read_refuses_everything_else(base: str, method: str, path: str):
    answer = ask(base + path, method)
    if ask(base + path).status_code == 404:  # the gateway has no metrics
        assert answer.status_code == 404
        return
    if method == "OPTIONS":  # which only asks what is allowed
        assert (answer.status_code, answer.headers["Allow"], answer.content) == (204, "GET, HEAD", b"")
        return
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.json()["type"] == "urn:nameko-hw:problem:method-not-allowed"
