"""A stack with its page, and a browser that looks at it, for the tests and the screenshots."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from services.local.needs import chromium
from services.local.net import free_port
from services.local.page.settings import address
from services.local.stack import Stack
from services.shop import Style

TOKEN = "the-token"
PROJECTOR = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}
ENDED_MS = 30_000
#: Chromium speaks to nobody but the page.
OPTIONS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),
)


@contextmanager
def stack_with_page(
    folder: Path, settings: dict[str, str] | None = None, style: Style | None = None
) -> Iterator[Stack]:
    """A stack as `make stack` runs it: with the page, and with servers that are started again."""
    with Stack(folder, free_port(), settings, say=lambda _: None, style=style, page_token=TOKEN) as stack:
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(0.05):
                stack.keep_servers_running()

        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            yield stack
        finally:
            stop.set()
            keeper.join()


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window, with an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Browser, stack: Stack, token: str = TOKEN, **options: Any) -> Page:
    """Return the page in a new window, connected."""
    context = browser.new_context(**{"viewport": PROJECTOR, **options})
    page = context.new_page()
    page.goto(address(stack.port, token))
    expect(page.locator("#where")).to_contain_text("mode", timeout=ENDED_MS)
    return page


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def play_all(page: Page) -> None:
    open_tab(page, "Do")
    page.get_by_role("button", name="Play all").click()
    expect(page.locator("#steps .holds")).to_have_count(8, timeout=ENDED_MS)


def burst_and_kill(page: Page) -> None:
    """Press the button for a hundred orders, with billing killed in the middle."""
    open_tab(page, "Do")
    page.get_by_label("and kill billing").check()
    page.get_by_role("button", name="100 orders").click()


def predict_and_start(page: Page, lesson: str, prediction: str, choice: str | None = None) -> Any:
    """Start a lesson; return what holds its outcome."""
    open_tab(page, "Lessons")
    box = page.locator(f"#lesson-{lesson}")
    if box.get_attribute("open") is None:
        box.locator("> summary").click()
    if choice:
        box.locator(f"input[name^=choice][value={choice}]").check()
    box.locator(f"input[name^=predict][value={prediction}]").check()
    box.get_by_role("button", name="Start the experiment").click()
    return box.locator(".outcome")
