"""Embedded mode in a browser: its page, where there is nothing to kill, and a page of another origin."""

import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from services.local import tokens
from services.local.needs import chromium
from services.local.stack import ROOT
from tests.conftest import QUICK, Embedded
from tests.page.running import ENDED_MS, open_tab, play_all, predict_and_start
from tests.serving import Serving

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def shop() -> Iterator[int]:
    """The port on which the example of a shop is served."""
    handler = partial(Quiet, directory=str(ROOT / "docs" / "examples"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with Serving(server):
        yield server.server_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, shop: int) -> Iterator[Embedded]:
    """Embedded mode, which allows the origin of the shop."""
    settings = QUICK | {"CORS_ORIGINS": f"[http://127.0.0.1:{shop}]"}
    with Embedded(tmp_path_factory.mktemp("embedded"), settings) as started:
        yield started


def test_a_page_of_another_origin_buys_and_shows_the_letter(running: Embedded, browser: Browser, shop: int):
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{shop}/shop.html?api={running.url}")
    page.get_by_role("button").click()
    said = page.locator("#said li")
    expect(said.filter(has_text="Registered: Ada, active")).to_be_visible(timeout=ENDED_MS)
    expect(said.filter(has_text="Balance: 5")).to_be_visible(timeout=ENDED_MS)
    order = said.filter(has_text=re.compile("Order: .*, paid"))
    expect(order).to_be_visible(timeout=ENDED_MS)
    expect(said.filter(has_text="Letter: Your order is paid")).to_be_visible(timeout=ENDED_MS)
    [order_id] = re.findall(r"Order: (\S+),", order.inner_text())
    expect(said.filter(has_text=f"Letter: Your order is paid, order {order_id}")).to_have_count(1)
    page.close()


def test_with_a_token_it_buys_where_tokens_are_asked_for(
    browser: Browser, shop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Embedded(tmp_path, QUICK | {"CORS_ORIGINS": f"[http://127.0.0.1:{shop}]", "AUTH": "jwt"}) as running:
        monkeypatch.setenv("NAMEKO_HW_FOLDER", str(tmp_path))
        address = f"http://127.0.0.1:{shop}/shop.html?api={running.url}"
        for token, end in (
            ("", "Failed: "),
            (f"#token={tokens.token('the-office', 'admin')}", "Letter: Your order is paid"),
        ):
            page = browser.new_page()
            page.goto(address + token)
            page.get_by_role("button").click()
            expect(page.locator("#said")).to_contain_text(end, timeout=ENDED_MS)
            page.close()


def test_a_page_of_an_origin_that_is_not_allowed_reads_nothing(running: Embedded, browser: Browser, shop: int):
    page = browser.new_page()
    page.goto(f"http://localhost:{shop}/shop.html?api={running.url}")
    said = page.evaluate(
        """async (api) => {
            const read = await fetch(api + '/users').then(() => 'read', () => 'refused')
            const followed = await new Promise((resolve) => {
                const events = new EventSource(api + '/events?after=beginning')
                events.onopen = () => resolve('followed')
                events.onerror = () => resolve('refused')
            })
            return [read, followed]
        }""",
        running.url,
    )
    assert said == ["refused", "refused"]
    page.close()


def test_an_order_is_watched_and_a_lesson_taken_and_it_stops(running: Embedded, browser: Browser, shop: int):
    [url] = re.findall(rf"{running.url}/#token=\S+", running.log.read_text())
    page = browser.new_page()
    page.goto(url)
    play_all(page)
    expect(page.locator("#diagram")).to_contain_text("add_letters", timeout=ENDED_MS)
    open_tab(page, "Break")
    expect(page.locator("#break-said")).to_contain_text("make stack")
    outcome = predict_and_start(page, "same-key", "one")
    expect(outcome.locator("p.right")).to_be_visible(timeout=ENDED_MS)
    open_tab(page, "Lessons")
    expect(page.locator("#lesson-lost-answer .missing")).to_contain_text("make stack")
    other = browser.new_page()
    other.goto(f"http://127.0.0.1:{shop}/shop.html?api={running.url}")
    other.get_by_role("button").click()
    expect(other.locator("#said")).to_contain_text("Letter: ", timeout=ENDED_MS)
    # with the streams of both open, it stops all the same
    assert running.stop() == 0
