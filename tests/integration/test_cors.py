"""A page of another origin may use the API if its origin is allowed, and only then."""

from collections.abc import Iterator

import pytest
import requests

from services.local.net import free_port
from services.local.stack import Stack
from tests.client import Api
from tests.conftest import QUICK

SHOP, OTHER = "https://shop.example.com", "https://other.example.com"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}


@pytest.fixture(scope="module")
def open_to_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a stack that allows one origin."""
    folder = tmp_path_factory.mktemp("cors")
    with Stack(folder, free_port(), QUICK | {"CORS_ORIGINS": f"[{SHOP}]"}) as running:
        yield running.url


def preflight(url: str, origin: str) -> requests.Response:
    return requests.options(f"{url}/orders", headers={"Origin": origin, **ASKED}, timeout=10)


def test_an_allowed_origin_may_send_and_see_what_it_needs(open_to_shop: str):
    asked = preflight(open_to_shop, SHOP)
    assert asked.status_code == 204 and asked.content == b""
    assert asked.headers["Access-Control-Allow-Origin"] == SHOP
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    allowed = asked.headers["Access-Control-Allow-Headers"].lower()
    assert {"content-type", "idempotency-key", "last-event-id", "prefer"} <= {one.strip() for one in allowed.split(",")}
    with Api(open_to_shop) as api:
        user_id = api.new_user(balance=10)["id"]
        order = {"user_id": user_id, "price": 1}
        placed = api.request("POST", "/orders", json=order, headers={"Origin": SHOP})
        refused = api.request("POST", "/orders", json={}, headers={"Origin": SHOP})
    for answer in (placed, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == SHOP and answer.headers["Vary"] == "Origin"
        assert {"Location", "Retry-After", "Idempotent-Replayed"} <= {
            one.strip() for one in answer.headers["Access-Control-Expose-Headers"].split(",")
        }


def test_another_origin_may_not(open_to_shop: str):
    asked = preflight(open_to_shop, OTHER)
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]
    shown = requests.get(f"{open_to_shop}/orders", headers={"Origin": OTHER}, timeout=10)
    assert shown.status_code == 200 and "Access-Control-Allow-Origin" not in shown.headers
    assert shown.headers["Vary"] == "Origin"


def test_by_default_no_origin_is_allowed(stack: Stack):
    assert "Access-Control-Allow-Origin" not in preflight(stack.url, SHOP).headers


def test_options_are_said_without_a_body(stack: Stack):
    answer = requests.options(f"{stack.url}/orders", timeout=10)
    assert (answer.status_code, answer.content) == (204, b"")
    assert {one.strip() for one in answer.headers["Allow"].split(",")} >= {"GET", "POST"}
