"""With AUTH=jwt each route is for whom its rule says: nobody else gets an answer, has an effect, or learns anything.

The same tests for every way to run the shop: a module gives `shop`, and takes `Matrix` as the base of a class.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import requests

from services.kit.web.auth.caller import ADMIN
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Route
from services.local.net import wait_for
from services.ops.openapi import routes
from services.shop import chosen_style
from tests.client import Api, new_email
from tests.conftest import QUICK, WAIT_S
from tests.tokens import AUDIENCE, ISSUER, Provider

ROUTES = [route for _, route in routes(chosen_style())]
SCOPES = {route.needs.scope for route in ROUTES if isinstance(route.needs, Needs)}
BETWEEN_SERVICES = "between-services-" + "x" * 20
LISTS = (Owner.QUERY, Owner.ONLY)


class Shop(NamedTuple):
    """A running shop with two users, of whom one has something of each kind."""

    url: str
    provider: Provider
    admin: Api
    ada: str
    bob: str
    values: dict[str, str]  # of the variables in paths: things of Ada's

    def client(self, token: str | None) -> Api:
        return Api(self.url, WAIT_S, token)

    def ask(self, route: Route, token: str | None, user_id: str, values: dict[str, str]) -> requests.Response:
        """Send a good request about the things of a user."""
        path = re.sub(r"<uuid:(\w+)>", lambda match: values[match[1]], route.path)
        if route.needs.owner is Owner.QUERY:
            path += f"?user_id={user_id}" + ("&after=beginning" if path == "/events" else "")
        with self.client(token) as client:
            return client.request(route.method, path, json=body_of(route, user_id)) if route.body else client.get(path)

    def state(self) -> list[Any]:
        """Everything that a request could have changed."""
        return [self.admin.items(f"/{what}") for what in ("users", "orders", "notifications")] + [
            self.admin.items(f"/billing/accounts/{self.ada}/operations")
        ]


def settings(keys: Path) -> dict[str, str]:
    """Return the settings of services that take the tokens of the keys in a file."""
    of_auth = {"AUTH": "jwt", "AUTH_JWKS": str(keys), "AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE}
    return {**QUICK, **of_auth, "INTERNAL_TOKEN": BETWEEN_SERVICES}


def body_of(route: Route, user_id: str) -> dict[str, Any]:
    amount, letter = {"amount": 1}, {"user_id": user_id, "subject": "Hello", "body": "Good to see you."}
    bodies: dict[str, dict[str, Any]] = {
        "/users": {"name": "Eve", "email": new_email()},
        "/orders": {"user_id": user_id, "price": 1},
        "/notifications": letter,
    }
    return bodies.get(route.path, amount)


@contextmanager
def shop_at(url: str, provider: Provider) -> Iterator[Shop]:
    """Fill a shop that takes the tokens of a provider."""
    with Api(url, WAIT_S, provider.token("the-office", ADMIN)) as admin:
        ada, bob = admin.new_user(1000)["id"], admin.new_user(1000)["id"]
        order = admin.ended_order(ada, 100)["id"]
        [letter] = admin.letters(ada, 1)
        values = {"user_id": ada, "order_id": order, "operation_id": order, "letter_id": letter["id"]}
        yield Shop(url, provider, admin, ada, bob, values)


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


each_route = pytest.mark.parametrize("route", ROUTES, ids=name)


def names_replaced(answer: requests.Response) -> Any:
    """The body but for what the sender knows: the user itself, and the place where a feed goes on."""
    body = answer.json()
    return [one["id"] for one in body["items"]] if "items" in body else body


class Matrix:
    """Every route, with every kind of sender; a subclass stands where there is a `shop`."""

    @each_route
    def test_without_a_good_token_or_its_scope_a_route_refuses(self, shop: Shop, route: Route):
        before = shop.state()
        wrong = " ".join(SCOPES - {route.needs.scope})
        good: dict[str, Any] = {"sub": shop.ada, "scope": route.needs.scope}
        for token, status, type_ in (
            (None, 401, "unauthorized"),
            (shop.provider.token(**good, exp=int(time.time()) - 60), 401, "invalid-token"),
            (Provider().token(**good), 401, "invalid-token"),
            (shop.provider.token(shop.ada, wrong), 403, "insufficient-scope"),
        ):
            answer = shop.ask(route, token, shop.ada, shop.values)
            assert (answer.status_code, answer.json()["type"]) == (status, f"urn:nameko-hw:problem:{type_}")
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="api"')
        assert shop.state() == before

    @each_route
    def test_the_owner_and_an_admin_are_let_in(self, shop: Shop, route: Route):
        for sub, scope in ((shop.ada, route.needs.scope), (uuid4(), ADMIN), ("the-office", ADMIN)):
            answer = shop.ask(route, shop.provider.token(sub, scope), shop.ada, shop.values)
            assert answer.ok, answer.text
            if route.needs.owner in LISTS:
                found = {str(one.get("letter", one).get("user_id", one.get("id"))) for one in answer.json()["items"]}
                assert shop.ada in found
                assert found == {shop.ada} or scope == ADMIN

    @pytest.mark.parametrize("stranger", ["another user", "no user", "a program"])
    @pytest.mark.parametrize("route", [one for one in ROUTES if one.needs.owner], ids=name)
    def test_what_is_somebody_elses_is_not_there(self, shop: Shop, route: Route, stranger: str):
        before = shop.state()
        sub = {"another user": shop.bob, "no user": uuid4(), "a program": "a-program"}[stranger]
        token = shop.provider.token(sub, " ".join(SCOPES))
        theirs = shop.ask(route, token, shop.ada, shop.values)
        missing = shop.ask(route, token, str(uuid4()), {name: str(uuid4()) for name in shop.values})
        assert theirs.status_code == missing.status_code == (200 if route.needs.owner in LISTS else 404)
        assert names_replaced(theirs) == names_replaced(missing)
        assert theirs.headers.keys() == missing.headers.keys()
        assert shop.state() == before

    @pytest.mark.parametrize("path", ["/users", "/orders", "/notifications", "/events?after=beginning"])
    def test_a_list_that_names_nobody_holds_what_is_the_senders(self, shop: Shop, path: str):
        with shop.client(shop.provider.token(shop.bob, " ".join(SCOPES))) as bob:
            assert bob.ended_order(shop.bob, 1)["status"] == "paid"
            wait_for(lambda: len(bob.get(path).json()["items"]) > 0, 10, "something of Bob's")
            for one in bob.get(path).json()["items"]:
                assert one.get("letter", one).get("user_id", one["id"]) == shop.bob

    def test_a_message_to_nobodys_address_is_the_admins_to_write(self, shop: Shop):
        letter = {"email": new_email(), "subject": "Hello", "body": "Good to see you."}
        with shop.client(shop.provider.token(shop.ada, "notifications:write")) as ada:
            assert ada.post("/notifications", letter).status_code == 403
        assert shop.admin.post("/notifications", letter).status_code == 201

    def test_a_stream_ends_with_its_token(self, shop: Shop):
        token = shop.provider.token(shop.ada, "notifications:read", exp=int(time.time()) - 7)  # good for some seconds
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {token}"}
        with requests.get(f"{shop.url}/events", headers=headers, stream=True, timeout=15) as stream:
            assert stream.status_code == 200
            said = b"".join(stream.iter_content())  # to its end
        assert said.startswith(b"retry: ") and b"event:" not in said
