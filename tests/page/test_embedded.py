"""The page of embedded mode, where there is nothing to kill."""

import re

import pytest
from playwright.sync_api import expect

from services.local.needs import chromium
from tests.conftest import Embedded
from tests.page.running import ENDED_MS, browsing, open_tab, play_all, predict_and_start

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


def test_an_order_is_watched_and_a_lesson_taken(tmp_path_factory: pytest.TempPathFactory):
    with Embedded(tmp_path_factory.mktemp("embedded")) as running, browsing() as browser:
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
        # with the stream of a browser open, it stops all the same
        assert running.stop() == 0
