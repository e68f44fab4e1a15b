"""The page, as a WSGI application without servers behind it."""

from pathlib import Path

import pytest
from werkzeug.test import Client, TestResponse

from services.local.page.app import Page, Where
from services.shop import SERVICES, SHOP, STYLES

TOKEN = "secret"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
#: How a browser on this machine asks.
HERE = {"base_url": "http://127.0.0.1:8000", "environ_base": {"REMOTE_ADDR": "127.0.0.1"}}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    nowhere = dict.fromkeys(SERVICES, "postgresql://x@127.0.0.1:1/x")
    return Page(Where("embedded", STYLES["broker"], 8000, TOKEN, nowhere, tmp_path))


@pytest.fixture
def client(page: Page) -> Client:
    return Client(page)


def problem(answer: TestResponse) -> str:
    """Return the name of the problem that an answer must be."""
    assert answer.content_type == "application/problem+json"
    return answer.json["type"].removeprefix(f"urn:{SHOP.name}:problem:")
