"""Finding things by HTTP: lists by each filter, single letters and operations, cursors. Through the gateway."""

import base64
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.client import Api, fields, new_email

NOBODY = "00000000-0000-4000-8000-000000000000"


def refused(answer: Any, name: str) -> str:
    """Return the sentence about the one field that is wrong."""
    assert (answer.status_code, fields(answer)) == (422, {name})
    return str(answer.json()["errors"][0]["message"])


@pytest.fixture(scope="module")
def ada(stack) -> dict[str, Any]:
    """A user with a paid order and a rejected one, and their letters."""
    with Api(stack.url) as api:
        user = api.new_user(balance=10)
        orders = [api.ended_order(user["id"], price) for price in (4, 5000)]
        letters = api.addressed_letters(user["id"], 2)
    assert [order["status"] for order in orders] == ["paid", "rejected"]
    return {"id": user["id"], "email": user["email"], "orders": orders, "letters": letters}


def test_orders_are_found_by_user_and_status(api: Api, ada):
    paid, rejected = ada["orders"]
    mine = f"/orders?user_id={ada['id']}"
    assert api.items(mine) == [rejected, paid]
    assert api.items(f"{mine}&status=paid") == [paid]
    assert api.items(f"{mine}&status=rejected") == [rejected]
    assert api.items(f"{mine}&status=pending") == []
    for order in ada["orders"]:
        newest = api.get(f"/orders?status={order['status']}&limit=200").json()["items"]
        assert order in newest and {one["status"] for one in newest} == {order["status"]}


@pytest.mark.parametrize("status", ["lost", "", "PAID"])
def test_a_status_that_there_is_not_is_named(api: Api, status: str):
    assert "'pending', 'paid' or 'rejected'" in refused(api.get(f"/orders?status={status}"), "status")


def test_an_order_that_was_answered_404_is_in_no_list(api: Api):
    user_id = str(uuid4())
    assert api.order(user_id, 1).status_code == 404
    for status in ("", "&status=rejected", "&status=pending"):
        assert api.items(f"/orders?user_id={user_id}{status}") == []


def test_a_letter_is_found_by_its_order(api: Api, ada):
    for order in ada["orders"]:
        [letter] = api.items(f"/notifications?order_id={order['id']}")
        assert letter in ada["letters"] and letter["order_id"] == order["id"]
        assert api.items(f"/notifications?order_id={order['id']}&user_id={ada['id']}") == [letter]
        assert api.items(f"/notifications?order_id={order['id']}&user_id={NOBODY}") == []
    assert api.items(f"/notifications?order_id={NOBODY}") == []
    refused(api.get("/notifications?order_id=x"), "order_id")


def test_a_letter_is_where_its_location_says(api: Api, ada):
    answer = api.post("/notifications", {"email": "bea@example.com", "subject": "Hello", "body": "x"})
    letter = answer.json()
    assert answer.headers["Location"] == f"/notifications/{letter['id']}"
    assert api.get(answer.headers["Location"]).json() == letter
    for letter in ada["letters"]:
        assert api.get(f"/notifications/{letter['id']}").json() == letter
    assert api.get(f"/notifications/{NOBODY}").json()["type"] == "urn:nameko-hw:problem:letter-not-found"


def test_a_letter_has_ended_when_its_address_is_known(api: Api):
    message = {"user_id": str(uuid4()), "subject": "Hello", "body": "x"}
    path = api.post("/notifications", message).headers["Location"]
    nowhere = api.get(path)
    assert nowhere.json()["email"] is None
    assert "ETag" not in nowhere.headers and nowhere.headers["Cache-Control"] == "no-store"
    path = api.post("/notifications", message | {"email": "bea@example.com"}).headers["Location"]
    has_ended(api, path)


def has_ended(api: Api, path: str) -> None:
    """Check that a client which has what is at `path` need not get it again."""
    shown = api.get(path)
    assert shown.headers["Cache-Control"] == "private, no-cache"
    again = api.request("GET", path, headers={"If-None-Match": shown.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_a_user_is_found_by_the_address_as_it_is_unique(api: Api, ada, change):
    [user] = api.items(f"/users?email={change(ada['email'])}")
    assert (user["id"], user["email"], user["status"]) == (ada["id"], ada["email"], "active")
    assert api.post("/users", {"name": "Bea", "email": change(ada["email"])}).status_code == 409


def test_an_address_that_nobody_has_finds_nobody_and_one_that_is_none_is_named(api: Api):
    assert api.get(f"/users?email={new_email()}").json() == {"items": [], "next": None}
    assert "ada@example.com" in refused(api.get("/users?email=ada"), "email")
    assert refused(api.get("/users?name=Ada"), "name") == "is not known here"


def test_users_are_listed_newest_first(api: Api):
    made = [api.new_user()["id"] for _ in range(3)]
    seen: list[str] = []
    path = "/users?limit=2"
    while not set(made) <= set(seen):
        page = api.get(path).json()
        assert len(page["items"]) == 2
        seen += [user["id"] for user in page["items"]]
        path = f"/users?limit=2&cursor={page['next']}"
    assert [id_ for id_ in seen if id_ in made] == made[::-1]
    assert len(set(seen)) == len(seen)


def test_an_answer_to_a_movement_is_its_line_of_the_statement(api: Api):
    user_id = api.new_user()["id"]
    key = str(uuid4())
    receipts = [api.deposit(user_id, 10, key).json(), api.withdraw(user_id, 3).json()]
    assert [one["kind"] for one in receipts] == ["deposit", "withdrawal"]
    assert api.items(f"/billing/accounts/{user_id}/operations") == receipts[::-1]
    replayed = api.deposit(user_id, 10, key)
    assert (replayed.json(), replayed.headers["Idempotent-Replayed"]) == (receipts[0], "true")
    for one in receipts:
        assert datetime.fromisoformat(one["created_at"]).utcoffset().total_seconds() == 0
        path = f"/billing/accounts/{user_id}/operations/{one['operation_id']}"
        assert api.get(path).json() == one
        has_ended(api, path)


def test_a_payment_has_the_id_of_its_order_and_a_refused_one_is_not_there(api: Api, ada):
    paid, rejected = ada["orders"]
    payment = api.get(f"/billing/accounts/{ada['id']}/operations/{paid['id']}").json()
    assert (payment["operation_id"], payment["kind"], payment["amount"]) == (paid["id"], "payment", 4)
    for user_id, id_ in ((ada["id"], rejected["id"]), (api.new_user()["id"], paid["id"]), (NOBODY, paid["id"])):
        answer = api.get(f"/billing/accounts/{user_id}/operations/{id_}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:nameko-hw:problem:operation-not-found")


def lists(user_id: str) -> dict[str, str]:
    """Every list of the API, as one that has more than one page for this user."""
    return {
        "users": "/users?limit=1",
        "orders": f"/orders?user_id={user_id}&limit=1",
        "letters": f"/notifications?user_id={user_id}&limit=1",
        "operations": f"/billing/accounts/{user_id}/operations?limit=1",
    }


def test_a_cursor_is_good_for_its_own_list_only(api: Api, ada):
    api.new_user()
    cursors = {name: api.get(path).json()["next"] for name, path in lists(ada["id"]).items()}
    assert all(cursors.values())
    for name, path in lists(ada["id"]).items():
        for of, cursor in cursors.items():
            answer = api.get(f"{path}&cursor={cursor}")
            if of == name:
                assert answer.status_code == 200 and answer.json()["items"]
            else:
                assert "another list" in refused(answer, "cursor")


def test_a_cursor_means_a_place_in_the_list_whatever_the_filter(api: Api, ada):
    paid, _ = ada["orders"]
    cursor = api.get(f"/orders?user_id={ada['id']}&limit=1").json()["next"]  # after the rejected one
    assert api.items(f"/orders?user_id={ada['id']}&status=paid&cursor={cursor}") == [paid]
    assert api.items(f"/orders?user_id={ada['id']}&status=rejected&cursor={cursor}") == []


def test_a_cursor_of_the_version_before_is_good_for_each_list(api: Api, ada):
    for name, path in lists(ada["id"]).items():
        cursor = base64.urlsafe_b64decode(api.get(path).json()["next"])
        before = base64.urlsafe_b64encode(cursor.removeprefix(f"{name} ".encode())).decode()
        assert api.get(f"{path}&cursor={before}").json()["items"], name
