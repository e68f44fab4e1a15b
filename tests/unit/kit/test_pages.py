"""A page has a limit and a cursor; anything else is refused."""

import base64
from datetime import UTC, datetime
from typing import ClassVar
from uuid import uuid4

import pytest
from pydantic import ValidationError

from services.kit.web.pages import DEFAULT_LIMIT, PageQuery, UserPageQuery, write_cursor

SOME_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


class ThingsQuery(PageQuery):
    LIST: ClassVar[str] = "things"


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_page_has_fifty_items_by_default():
    assert PageQuery().limit == DEFAULT_LIMIT == 50


@pytest.mark.parametrize("limit", ["1", "50", "200"])
def test_a_limit_in_range_is_taken(limit):
    assert PageQuery.model_validate({"limit": limit}).limit == int(limit)


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1.0", "1e2", "", " 5", "+5", "5_0", "five", "\u0665", "9" * 5000])
def test_any_other_limit_is_refused(limit):
    with pytest.raises(ValidationError) as caught:
        PageQuery.model_validate({"limit": limit})
    assert caught.value.errors()[0]["loc"] == ("limit",)


def test_a_cursor_is_read_as_it_was_written():
    moment, id_ = datetime.now(UTC), uuid4()
    assert ThingsQuery.model_validate({"cursor": write_cursor("things", moment, id_)}).cursor == (moment, id_)


def test_a_cursor_of_another_list_is_refused_by_a_sentence_of_its_own():
    with pytest.raises(ValidationError) as caught:
        ThingsQuery.model_validate({"cursor": write_cursor("letters", datetime.now(UTC), uuid4())})
    [error] = caught.value.errors()
    assert error["loc"] == ("cursor",) and "another list" in error["msg"]


def test_a_cursor_of_the_version_before_is_read():
    moment, id_ = datetime.now(UTC), uuid4()
    assert ThingsQuery.model_validate({"cursor": cursor(f"{moment.isoformat()} {id_}")}).cursor == (moment, id_)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "é",
        "====",
        cursor("yesterday x"),
        cursor(f"2026-01-01T00:00:00 {SOME_ID}"),
        cursor(f"2026-01-01T00:00:00+00:00 {SOME_ID} and more"),
        cursor("2026-01-01T00:00:00+00:00"),
        cursor(f"things {SOME_ID}"),
        cursor(f"things 2026-01-01T00:00:00+00:00 {SOME_ID} and more"),
        cursor(f"big things 2026-01-01T00:00:00+00:00 {SOME_ID}"),
        cursor(f" things 2026-01-01T00:00:00+00:00 {SOME_ID}"),
    ],
)
def test_any_other_cursor_is_refused(text):
    with pytest.raises(ValidationError) as caught:
        ThingsQuery.model_validate({"cursor": text})
    assert caught.value.errors()[0]["loc"] == ("cursor",)


def test_an_unknown_parameter_is_refused():
    with pytest.raises(ValidationError):
        UserPageQuery.model_validate({"userid": str(uuid4())})
