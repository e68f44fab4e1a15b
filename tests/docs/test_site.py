"""docs/ as a site: it is complete by itself, and can be read in the dark and on a phone."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from services.local.needs import chromium
from tests.docs.idl import DOCS, ROOT
from tests.page.running import PHONE, PROJECTOR, browsing

PAGES = sorted(DOCS.glob("*.md"))
HOST = "http://docs.test/"
BRIGHT = 110  # of 255; the pictures of a light page are above 200
#: Draws a picture on one pixel: how bright it is on average.
BRIGHTNESS = """async (png) => {
  const image = new Image()
  image.src = 'data:image/png;base64,' + png
  await image.decode()
  const context = new OffscreenCanvas(1, 1).getContext('2d')
  context.imageSmoothingQuality = 'high'
  context.drawImage(image, 0, 0, 1, 1)
  return Math.max(...context.getImageData(0, 0, 1, 1).data.slice(0, 3))
}"""
with_chromium = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as running:
        yield running


@pytest.fixture
def asked_for() -> list[str]:
    """Every URL that the test has made the browser ask for."""
    return []


@pytest.fixture
def page(browser: Browser, site: Path, asked_for: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page with the options of the test's parameter, to which the site is all there is."""

    def serve(route: Route) -> None:
        asked_for.append(route.request.url)
        file = site / route.request.url.removeprefix(HOST).partition("?")[0]
        if file.is_file():
            route.fulfill(path=file)
        else:
            route.abort()

    context = browser.new_context(**getattr(request, "param", {}))
    context.route("**/*", serve)
    yield context.new_page()
    context.close()


def test_pages_load_nothing_from_other_servers_and_lead_into_the_project(site: Path) -> None:
    for page in PAGES:
        html = (site / page.with_suffix(".html").name).read_text()
        assert not re.findall(r'<(?:link|script|img)[^>]+(?:src|href)="(?:https?:)?//', html)
        for link in re.findall(r'href="\.\./\.\./([^"#]+)', html):  # out of build/site, into the project
            assert (ROOT / link).exists(), link
    assert not (site / "tools").exists() and not (site / "lint").exists()


def test_every_picture_is_a_link_to_itself(site: Path) -> None:
    shown = [re.findall(r'<img alt="[^"]*" src="([^"]+)"', file.read_text()) for file in site.glob("*.html")]
    linked = [re.findall(r'<a href="([^"]+)"><img alt=', file.read_text()) for file in site.glob("*.html")]
    assert shown == linked and sum(map(len, shown)) > 20


def test_the_search_knows_of_idempotency_and_every_page_of_the_next(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    assert "api.html#idempotency" in [one["location"] for one in index if one["title"] == "Idempotency"]
    without = [page.stem for page in PAGES if "md-footer__link" not in (site / f"{page.stem}.html").read_text()]
    assert without == []


@with_chromium
@pytest.mark.parametrize("page", [{"viewport": PROJECTOR, "color_scheme": "light"}], indirect=True)
def test_no_picture_stays_white_when_the_reader_chooses_the_dark(page: Page, asked_for: list[str]) -> None:
    page.goto(f"{HOST}broker.html")
    page.locator("label[for=__palette_1]").click()
    for name in ("broker", "comparison", "page"):
        page.goto(f"{HOST}{name}.html")
        for picture in page.locator(".picture img").all():
            assert brightness(page, picture.screenshot()) < BRIGHT, f"{name}: {picture.get_attribute('src')}"
    assert {url for url in asked_for if not url.startswith(HOST)} == set()


def brightness(page: Page, png: bytes) -> int:
    return int(page.evaluate(BRIGHTNESS, base64.b64encode(png).decode()))


@with_chromium
@pytest.mark.parametrize("page", [{"viewport": PHONE}], indirect=True)
def test_on_a_phone_pictures_scroll_and_pages_do_not(page: Page) -> None:
    for name in ("broker", "api", "reference"):
        page.goto(f"{HOST}{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    page.goto(f"{HOST}broker.html")
    widths = page.evaluate(
        "[...document.querySelectorAll('.picture')].map((one) => [one.scrollWidth, one.clientWidth])"
    )
    assert widths and all(drawn > shown for drawn, shown in widths)


@with_chromium
def test_the_reference_shows_every_request(page: Page, asked_for: list[str]) -> None:
    page.goto(f"{HOST}reference.html")
    paths = json.loads((DOCS / "openapi.json").read_text())["paths"]
    expect(page.locator("#reference .opblock")).to_have_count(
        sum(len(methods) for methods in paths.values()), timeout=30_000
    )
    assert {url for url in asked_for if not url.startswith(HOST)} == set()
