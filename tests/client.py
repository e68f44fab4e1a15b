"""A client of the HTTP API, as tests speak to it."""

from typing import Any
from uuid import uuid4

import requests
import urllib3

from services.local.net import wait_for

TIMEOUT_S = 15
LETTER_S = 20

Json = Any


class Api:
    """The system at a base URL. Its methods assert what a test that only sets a scene takes for granted."""

    def __init__(self, url: str, wait_s: int | None = None, token: str | None = None) -> None:
        """`wait_s` is the wait that requests prefer which say nothing else; `token` is sent with each."""
        self.url = url
        self.wait_s = wait_s
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=50)
        self.session.mount("http://", adapter)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def request(self, method: str, path: str, key: str | None = None, **options: Any) -> requests.Response:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.session.request(method, self.url + path, headers=headers, timeout=TIMEOUT_S, **options)

    def get(self, path: str, wait_s: int | None = None) -> requests.Response:
        return self.request("GET", path, headers=prefer(wait_s or self.wait_s))

    def post(self, path: str, body: Json, key: str | None = None, wait_s: int | None = None) -> requests.Response:
        return self.request("POST", path, key, json=body, headers=prefer(wait_s or self.wait_s))

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready").status_code == 200
        except requests.RequestException:
            return False

    def new_user(self, balance: int = 0) -> Json:
        """Create an active user with a unique address and `balance` on the account."""
        answer = self.post("/users", {"name": "Ada", "email": new_email()})
        assert answer.status_code == 201, answer.text
        user = answer.json()
        wait_for(lambda: self.get(f"/users/{user['id']}").json()["status"] == "active", LETTER_S, "an active user")
        if balance:
            assert self.deposit(user["id"], balance).status_code == 200
        return self.get(f"/users/{user['id']}").json()

    def deposit(self, user_id: str, amount: Json, key: str | None = None) -> requests.Response:
        return self.post(f"/billing/accounts/{user_id}/deposit", {"amount": amount}, key)

    def withdraw(self, user_id: str, amount: Json, key: str | None = None) -> requests.Response:
        return self.post(f"/billing/accounts/{user_id}/withdraw", {"amount": amount}, key)

    def order(self, user_id: str, price: Json, key: str | None = None) -> requests.Response:
        return self.post("/orders", {"user_id": user_id, "price": price}, key)

    def ended_order(self, user_id: str, price: Json) -> Json:
        """Place an order, and return it as it ends: in some styles it is pending at first."""
        order = self.order(user_id, price).json()
        path = f"/orders/{order['id']}"
        wait_for(lambda: self.get(path).json()["status"] != "pending", LETTER_S, "the end of an order")
        return self.get(path).json()

    def balance(self, user_id: str) -> int:
        answer = self.get(f"/billing/accounts/{user_id}")
        assert answer.status_code == 200, answer.text
        balance: int = answer.json()["balance"]
        return balance

    def items(self, path: str) -> list[Json]:
        """Everything in a list, page by page."""
        items, cursor = [], None
        while True:
            answer = self.get(f"{path}{'&' if '?' in path else '?'}limit=200" + (f"&cursor={cursor}" if cursor else ""))
            assert answer.status_code == 200, answer.text
            page = answer.json()
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    def letters(self, user_id: str, count: int = 0) -> list[Json]:
        """The user's letters, once there are at least `count`."""
        path = f"/notifications?user_id={user_id}"
        return wait_for(lambda: self.enough(path, count), LETTER_S, f"{count} letters") if count else self.items(path)

    def addressed_letters(self, user_id: str, count: int) -> list[Json]:
        """The same, once they also have the user's address, which may become known after them."""

        def addressed() -> list[Json]:
            items = self.enough(f"/notifications?user_id={user_id}", count) or []
            return items if all(one["email"] for one in items) else []

        return wait_for(addressed, LETTER_S, f"{count} letters with an address")

    def enough(self, path: str, count: int) -> list[Json] | None:
        items = self.items(path)
        return items if len(items) >= count else None


def prefer(wait_s: int | None) -> dict[str, str]:
    """Return the header by which a client says how long it would wait for the outcome."""
    return {} if wait_s is None else {"Prefer": f"wait={wait_s}"}


def new_email() -> str:
    return f"{uuid4()}@example.com"


def fields(answer: requests.Response) -> set[str]:
    """The fields that a problem names; the answer must be a problem."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"].startswith("urn:nameko-hw:problem:")
    return {error["field"] for error in problem.get("errors", [])}


def tells_how_to_send_it_again(detail: str) -> bool:
    """Whether the text of a 503 keeps its reader from doing twice what may have been done once."""
    return "same Idempotency-Key" in detail and "look first" in detail and "Try again" not in detail


def refuses_two_keys(url: str) -> None:
    """Assert that a request with two Idempotency-Keys is refused, and not taken for one with another key."""
    headers = urllib3.HTTPHeaderDict({"Content-Type": "application/json"})
    for key in ("k", "l"):
        headers.add("Idempotency-Key", key)
    answer = urllib3.request("POST", f"{url}/notifications", headers=headers, body=b"{}", timeout=TIMEOUT_S)
    [error] = answer.json()["errors"]
    assert (answer.status, error["field"], error["code"]) == (400, "Idempotency-Key", "repeated")
