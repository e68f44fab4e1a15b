"""The events of a client: each letter once, in the order of commits, however often the client is cut off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, text

from services.kit.db.commits import forget_other_histories, start
from services.local.net import wait_for
from services.local.stack import Stack
from services.ops.migrate import upgrade
from tests.books import rows
from tests.client import Api, fields
from tests.events import Follower

KNOWN_S = 10


def test_who_follows_gets_what_comes_from_now_on(stack: Stack, api: Api):
    user_id = known_user(stack, api)
    assert api.deposit(user_id, 10).status_code == 200
    api.ended_order(user_id, 3)
    api.letters(user_id, 1)
    with Follower(stack.url, user_id=user_id) as follower:
        api.ended_order(user_id, 4)
        follower.wait_for(1)
        api.ended_order(user_id, 40)
        seen = follower.wait_for(2)
    assert [event.type for event in seen] == ["order_paid", "order_rejected"]
    newest = api.items(f"/notifications?user_id={user_id}")
    assert [event.letter for event in reversed(seen)] == newest[:2]


def test_who_comes_back_gets_each_letter_once(stack: Stack, api: Api):
    user_id = api.new_user()["id"]
    with Follower(stack.url, user_id=user_id) as cut_at_once:
        pass
    write(api, user_id, 3)
    with Follower(stack.url, cut_at_once.last_id, user_id=user_id, after="beginning") as first:
        first.wait_for(3)
    write(api, user_id, 2)
    with Follower(stack.url, first.last_id, user_id=user_id) as second:
        second.wait_for(2)
        write(api, user_id, 1)
        second.wait_for(3)
    subjects = [event.letter["subject"] for event in first.events + second.events]
    assert subjects == ["0", "1", "2", "0", "1", "0"]


def known_user(stack: Stack, api: Api) -> str:
    """Return a new user whose address is known to notifications: it would change what a letter shows."""
    user_id: str = api.new_user()["id"]
    address = "select from contacts where user_id = :id"
    wait_for(lambda: rows(stack, "notifications", address, id=user_id), KNOWN_S, "the user's address to be known")
    return user_id


def test_a_back_end_reads_page_by_page(stack: Stack, api: Api):
    user_id = known_user(stack, api)
    now = page(api, user_id)
    assert now["items"] == []
    write(api, user_id, 5)
    first = page(api, user_id, after=now["next"], limit=3)
    second = page(api, user_id, after=first["next"], limit=3)
    assert [item["letter"]["subject"] for item in first["items"] + second["items"]] == ["0", "1", "2", "3", "4"]
    assert first["next"] == first["items"][-1]["id"]
    assert page(api, user_id, after=second["next"]) == {"items": [], "next": second["next"]}
    assert page(api, user_id, after="beginning", limit=3) == first
    everybodys = page(api, None, after=now["next"])["items"]
    assert [item for item in everybodys if item["letter"]["user_id"] == user_id] == first["items"] + second["items"]


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_a_transaction_that_began_first_and_commits_last_is_not_passed_over(stack: Stack, api: Api, first_to_end: int):
    user_id = api.new_user()["id"]
    with Follower(stack.url, user_id=user_id) as follower, writing(stack) as early, writing(stack) as late:
        connections = [early, late]
        for connection, subject in zip(connections, ("early", "late"), strict=True):
            store(connection, user_id, subject)
        position = follower.last_id
        connections.pop(first_to_end).commit()
        before = page(api, user_id, after=position)
        connections.pop().commit()
        assert [event.letter["subject"] for event in follower.wait_for(2)] == ["early", "late"]
    after = page(api, user_id, after=before["next"])
    assert [item["letter"]["subject"] for item in before["items"] + after["items"]] == ["early", "late"]


def test_a_position_of_another_server_begins_at_the_beginning(stack: Stack, api: Api):
    user_id = known_user(stack, api)
    write(api, user_id, 2)
    [whole, far] = [page(api, user_id, after="beginning"), page(api, user_id)["next"].split(".")]
    for restored in ("7.{1}.{2}", "{0}.9000000000000.{2}"):
        assert page(api, user_id, after=restored.format(*far)) == whole


def test_letters_that_were_restored_from_another_server_come_first_and_are_not_lost(stack: Stack, api: Api):
    user_id = api.new_user()["id"]
    write(api, user_id, 1)
    with writing(stack) as connection:
        store(connection, user_id, "restored")
        theirs = "update letters set transaction = '9000000000' where user_id = :user and subject = 'restored'"
        connection.execute(text(theirs), {"user": user_id})
        connection.commit()
    assert [item["letter"]["subject"] for item in page(api, user_id, after="beginning")["items"]] == ["0"]
    upgrade("notifications", stack.database_url("notifications"))
    subjects = [item["letter"]["subject"] for item in page(api, user_id, after="beginning")["items"]]
    assert subjects == ["restored", "0"]
    assert forget_other_histories(stack.database_url("notifications"), "letters") == 0


def test_an_ordinary_role_may_ask_where_it_is(stack: Stack):
    with writing(stack) as connection:
        connection.execute(text("create role ordinary"))
        connection.execute(text("set role ordinary"))
        assert start(connection, None).transaction > 0
        connection.rollback()


def test_what_is_no_position_is_refused(api: Api):
    for wrong in ("", "1", "1.2.x", "1.-2." + str(uuid4()), "01.2." + str(uuid4())):
        answer = api.get(f"/events?after={wrong}")
        assert answer.status_code == 422 and fields(answer) == {"after"}
    answer = api.request("GET", "/events", headers={"Last-Event-ID": "7"})
    assert answer.status_code == 400 and fields(answer) == {"Last-Event-ID"}


def test_only_who_asks_for_a_stream_gets_one(api: Api):
    for accept in ("*/*", "application/json", "text/html", "text/event-stream;q=0.1, application/json"):
        answer = api.request("GET", "/events", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "application/json" and "Accept" in answer.headers["Vary"]
    for method, accept in (("GET", "text/event-stream, */*"), ("HEAD", "text/event-stream")):
        answer = api.request(method, "/events", headers={"Accept": accept}, stream=True)
        with answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert "Accept" in answer.headers["Vary"] and "Content-Length" not in answer.headers


def write(api: Api, user_id: str, count: int) -> None:
    """Return once the feed has them all: each is in it when every transaction that began before has ended."""
    for number in range(count):
        answer = api.post("/notifications", {"user_id": user_id, "subject": str(number), "body": ""})
        assert answer.status_code == 201

    def is_told() -> bool:
        told = page(api, user_id, after="beginning", limit=200)["items"]
        return answer.json()["id"] in [item["letter"]["id"] for item in told]

    wait_for(is_told, KNOWN_S, "the last letter to be told of")


def page(api: Api, user_id: str | None, **query: Any) -> Any:
    query = query | ({"user_id": user_id} if user_id else {})
    answer = api.request("GET", "/events", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def writing(stack: Stack) -> Iterator[Connection]:
    """A transaction in the database of notifications."""
    engine = create_engine(stack.database_url("notifications"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def store(connection: Connection, user_id: str, subject: str) -> None:
    connection.execute(
        text("insert into letters (id, user_id, kind, subject, body) values (:id, :user, 'message', :subject, '')"),
        {"id": uuid4(), "user": user_id, "subject": subject},
    )
