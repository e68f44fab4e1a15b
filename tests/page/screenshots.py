"""Takes docs/page/*.png: `make screenshots`. Each is of a real stack, which is started for it."""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from services.local.stack import ROOT
from tests.page.running import (
    ENDED_MS,
    browsing,
    burst_and_kill,
    open_tab,
    opened,
    play_all,
    predict_and_start,
    stack_with_page,
)

FOLDER = ROOT / "docs" / "page"
HEALED_MS = 90_000


def take(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.screenshot(path=FOLDER / f"{name}.png")
    print(f"docs/page/{name}.png", flush=True)


def an_order(page: Page) -> None:
    """The eight steps are played; the order that was paid is looked at."""
    play_all(page)
    page.locator("#orders tr", has_text="paid").first.locator("button").click()
    expect(page.locator("#diagram")).to_contain_text("add_letters", timeout=ENDED_MS)
    expect(page.locator("#tables")).to_contain_text("marked as published", timeout=ENDED_MS)
    page.get_by_role("button", name="Run the audit").click()
    expect(page.locator("#verdict.clean")).to_be_visible(timeout=ENDED_MS)
    take(page, "order")


def a_kill(page: Page) -> None:
    """Billing is killed in the middle of a hundred orders; then all are paid, and one of those is looked at."""
    page.get_by_label("follow the newest").check()
    burst_and_kill(page)
    open_tab(page, "Break")
    expect(page.locator("#diagram [data-lane=billing].down")).to_be_visible(timeout=ENDED_MS)
    expect(page.locator("#orders tbody tr").first).to_contain_text("pending")
    take(page, "kill")
    open_tab(page, "Do")
    expect(page.locator("#burst-said")).to_contain_text("Done", timeout=HEALED_MS)
    expect(page.locator("#verdict")).to_contain_text("orders paid", timeout=ENDED_MS)
    expect(page.locator("#verdict.clean")).to_be_visible(timeout=ENDED_MS)
    for button in page.locator("#orders [data-order]").all():
        button.click()
        if page.locator("#diagram .failed").count():
            break
    page.get_by_label("and kill billing").uncheck()
    take(page, "healed")


def a_lesson(page: Page) -> None:
    """The lesson about a payment whose answer was lost."""
    page.get_by_label("follow the newest").check()
    outcome = predict_and_start(page, "lost-answer", "twice")
    expect(outcome.locator("p.wrong")).to_contain_text(re.compile("Once"), timeout=HEALED_MS)
    expect(page.locator("#tables")).to_contain_text("order paid", timeout=ENDED_MS)
    expect(page.locator("#verdict.clean")).to_be_visible(timeout=ENDED_MS)
    outcome.scroll_into_view_if_needed()
    take(page, "lesson")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nameko-hw-") as folder, browsing() as browser:
        with stack_with_page(Path(folder)) as stack:
            page = opened(browser, stack)
            an_order(page)
            a_kill(page)
            page.get_by_role("button", name="Dark").click()
            open_tab(page, "Lessons")
            a_lesson(page)


if __name__ == "__main__":
    main()
