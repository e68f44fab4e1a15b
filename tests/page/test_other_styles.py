"""The page of a stack in the other styles."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from services.local.needs import chromium
from services.shop import STYLES
from tests.conftest import QUICK
from tests.page.running import ENDED_MS, browsing, open_tab, opened, play_all, predict_and_start, stack_with_page

pytestmark = [pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"), pytest.mark.styles]

LESSON_MS = 90_000


@pytest.mark.parametrize("style, lesson", [("http", "lost-answer"), ("events", "letter-twice")])
def test_an_order_is_watched_and_a_lesson_taken(tmp_path: Path, style: str, lesson: str):
    with stack_with_page(tmp_path, QUICK, STYLES[style]) as stack, browsing() as browser:
        page = opened(browser, stack)
        play_all(page)
        expect(page.locator("#diagram")).to_contain_text("add_letters", timeout=ENDED_MS)
        lanes = page.locator("#diagram .lane-name").all_text_contents()
        assert ("broker" in lanes) == STYLES[style].has_broker
        outcome = predict_and_start(page, lesson, {"lost-answer": "once", "letter-twice": "one"}[lesson])
        expect(outcome.locator("p.right")).to_be_visible(timeout=LESSON_MS)
        open_tab(page, "Break")
        assert page.locator("[data-part=broker]").count() == int(STYLES[style].has_broker)
        expect(page.locator("#lesson-broker-away .missing")).to_contain_text("make stack")
