"""Swagger UI at /docs in a real browser: what it fills in works as it stands."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from services.local.needs import chromium
from tests.page.running import ENDED_MS, browsing

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def docs(embedded: str) -> Iterator[Page]:
    """The page /docs, whose browser speaks to nobody else."""
    asked_for: set[str] = set()
    complaints: list[str] = []
    with browsing() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked_for.add(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{embedded}/docs")
        yield page
    assert complaints == []
    assert all(url.startswith((f"{embedded}/", "data:")) for url in asked_for)


def block(docs: Page, operation: str) -> Any:
    return docs.locator(f"#operations-{operation}")


def try_out(docs: Page, operation: str) -> None:
    block(docs, operation).locator(".opblock-summary-control").click()
    block(docs, operation).get_by_role("button", name="Try it out").click()


def execute(docs: Page, operation: str, status: int) -> Any:
    """Press Execute, and return the answer that the page shows."""
    its = block(docs, operation)
    its.get_by_role("button", name="Execute").click()
    shown = its.locator(".live-responses-table .response")
    expect(shown.locator(".response-col_status")).to_contain_text(str(status), timeout=ENDED_MS)
    return json.loads(shown.locator(".highlight-code").first.inner_text().removeprefix("Download"))


def test_what_is_filled_in_creates_a_user_deposits_and_orders(docs: Page):
    try_out(docs, "users-create_user")
    user = execute(docs, "users-create_user", 201)
    assert user["status"] == "active"
    try_out(docs, "billing-deposit")
    assert execute(docs, "billing-deposit", 200)["user_id"] == user["id"]
    try_out(docs, "orders-create_order")
    order = execute(docs, "orders-create_order", 201)
    assert (order["user_id"], order["status"]) == (user["id"], "paid")
    try_out(docs, "orders-get_order")
    assert execute(docs, "orders-get_order", 200) == order
    expect(block(docs, "users-create_user").locator(".live-responses-table")).to_contain_text(user["id"])


def test_another_user_can_be_created_as_it_stands(docs: Page):
    its = block(docs, "users-create_user")
    its.get_by_role("button", name="Clear").click()
    assert execute(docs, "users-create_user", 201)["status"] == "active"
