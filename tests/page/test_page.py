"""The page in a real browser, with a stack behind it."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from services.local.needs import chromium
from services.local.net import wait_for
from services.local.page import receiver
from services.local.stack import GATEWAY, ROOT, Stack
from tests.conftest import QUICK
from tests.page import made
from tests.page.running import (
    ENDED_MS,
    PHONE,
    TOKEN,
    burst_and_kill,
    open_tab,
    opened,
    play_all,
    predict_and_start,
    stack_with_page,
)

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")

AXE = ROOT / "tests/page/node_modules/axe-core/axe.min.js"
LESSON_MS = 90_000
SEEN_S = 20
SENT_S = 3  # spans are sent within a second or so

#: Every URL that any test has made the browser ask for.
asked_for: set[str] = set()
#: What went wrong in a script, or was refused by the Content-Security-Policy.
complaints: list[str] = []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_with_page(tmp_path_factory.mktemp("page"), QUICK) as running:
        yield running


def watched(page: Page) -> Page:
    page.context.on("request", lambda request: asked_for.add(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Security" in message.text else None)
    return page


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    page = watched(opened(browser, stack))
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def lesson_without(browser: Browser, stack: Stack) -> Iterator[Any]:
    """The lesson that takes longest; it has a stack of its own, so it runs beside the other tests."""
    page = watched(opened(browser, stack))
    yield predict_and_start(page, "without", "letters", choice="inbox")
    page.context.close()


def post(stack: Stack, path: str, **options: Any) -> requests.Response:
    return requests.post(stack.url + path, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10, **options)


def send_spans(stack: Stack, spans: Any) -> None:
    answer = requests.post(
        f"{stack.url}{receiver.PATH}",
        made.request(spans).SerializeToString(),
        headers={"Content-Type": receiver.PROTOBUF},
        timeout=10,
    )
    assert answer.status_code == 200


def new_order(stack: Stack, price: int = 1) -> str:
    """An order of a user without money."""
    user = requests.post(f"{stack.url}/users", json={"name": "Bob", "email": f"{uuid4()}@example.com"}, timeout=10)
    body = {"user_id": user.json()["id"], "price": price}
    return str(requests.post(f"{stack.url}/orders", json=body, timeout=10).json()["id"])


def select(page: Page, order_id: str) -> None:
    page.locator(f'#orders [data-order="{order_id}"]').click()
    expect(page.locator("#diagram-heading")).to_contain_text(order_id[:8])


def drawn(page: Page) -> list[str]:
    return page.locator("#diagram .message > title").all_text_contents()


def test_the_steps_are_played_and_the_audit_is_clean(page: Page):
    play_all(page)
    expect(page.locator("#tables")).to_contain_text("insufficient funds")
    expect(page.locator("#orders tbody tr").first).to_contain_text("rejected")
    step = page.locator("#steps li").nth(2)
    step.locator("summary").first.click()
    expect(step).to_contain_text("Idempotency-Key")
    expect(step.locator(".curl").first).to_contain_text(re.compile(r"^curl -s 'http://127\.0\.0\.1:\d+/orders' .*-d '"))
    page.get_by_role("button", name="Run the audit").click()
    expect(page.locator("#verdict.clean")).to_contain_text("no violations", timeout=ENDED_MS)


def test_an_order_that_is_placed_alone_is_drawn_from_the_request_to_the_letter(page: Page):
    play_all(page)
    page.locator("#orders tr", has_text="paid").first.locator("button").click()
    expect(page.locator("#diagram")).to_contain_text("add_letters", timeout=ENDED_MS)
    expected = page.evaluate(MESSAGES, plain(made.order("an-order").spans))
    messages = sorted(f"{one['from']} to {one['to']}: {one['label']}" + noted(one) for one in expected)

    def told() -> list[str]:
        return sorted(re.sub(r"^[\d.]+ m?s: ", "", one) for one in drawn(page))

    with suppress(TimeoutError):  # a busy machine may be late with some of it
        wait_for(lambda: told() == messages, SEEN_S, "all messages")
    assert told() == messages


def noted(message: Any) -> str:
    return f", {message['note']}" if message["note"] else ""


def test_only_the_orders_of_a_user_are_listed(page: Page, stack: Stack):
    orders = [new_order(stack), new_order(stack)]
    user_id = requests.get(f"{stack.url}/orders/{orders[0]}", timeout=10).json()["user_id"]
    expect(page.locator(f'#user option[value="{user_id}"]')).to_have_count(1, timeout=ENDED_MS)
    page.get_by_label("of", exact=True).select_option(user_id)
    expect(page.locator("#orders tbody tr")).to_have_count(1)
    expect(page.locator(f'#orders [data-order="{orders[0]}"]')).to_be_visible()
    page.get_by_label("of", exact=True).select_option("")
    expect(page.locator(f'#orders [data-order="{orders[1]}"]')).to_be_visible()


def drawn_in_the_end(page: Page) -> int:
    """How many messages are drawn when the services have sent no more of the order for SENT_S."""
    count, since = 0, time.monotonic()

    def is_all() -> bool:
        nonlocal count, since
        if (now := len(drawn(page))) != count:
            count, since = now, time.monotonic()
        return time.monotonic() - since > SENT_S

    wait_for(is_all, 30, "the spans of the order")
    return count


def test_an_order_is_drawn_message_by_message(page: Page, stack: Stack):
    order_id = new_order(stack)
    page.get_by_label("follow the newest").uncheck()
    select(page, order_id)
    send_spans(stack, made.order(order_id, duplicate=True).spans)
    # besides what the services themselves may have sent
    expect(page.locator("#diagram")).to_contain_text("known already: dropped")
    page.locator("#as-table > summary").click()
    count = drawn_in_the_end(page)
    rows = page.locator("#messages tbody tr")
    expect(rows).to_have_count(count)
    expect(page.locator("#messages")).to_contain_text("order_paid")
    page.get_by_role("button", name="Step back").click()
    expect(page.locator("#position")).to_have_text(f"{count - 1} of {count}")
    expect(rows).to_have_count(count - 1)
    page.get_by_role("button", name="Step forward").click()
    expect(page.locator("#position")).to_have_text(f"{count} of {count}")
    page.get_by_role("button", name="Replay slowly").click()
    expect(page.locator("#position")).to_have_text(re.compile(f"^[1-3] of {count}"))
    page.get_by_role("button", name="Stop replaying").click()
    expect(page.locator("#position")).to_have_text(f"{count} of {count}")
    page.get_by_role("button", name="Pause").click()
    send_spans(stack, made.order(order_id, at_ms=1000).spans)
    expect(page.locator("#position")).to_have_text(re.compile(f"^{count} of (?!{count}$)"))
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#position")).not_to_have_text(re.compile(f"^{count} of"))


MESSAGES = "async (spans) => (await import('/page/messages.js')).messagesOf(spans)"
TOGETHER = """async ([spans, order]) => {
  const { Spans } = await import('/page/spans.js')
  const { messagesOf } = await import('/page/messages.js')
  const known = new Spans()
  known.add(spans)
  return messagesOf(known.of(known.tracesOf(order))).map((one) => [one.from, one.to, one.label])
}"""
KEPT = """async ([spans, times]) => {
  const { Spans } = await import('/page/spans.js')
  const known = new Spans(1000)
  for (let time = 0; time < times; time += 1) {
    known.add(spans.map((one) => ({
      ...one, trace: one.trace + time, id: one.id + time, parent: one.parent && one.parent + time,
      attributes: one.attributes['shop.order.id'] ? { 'shop.order.id': `order ${time}` } : {}
    })))
  }
  return [known.spans.size, known.byTrace.size, known.byParent.size, known.byLink.size, known.byOrder.size]
}"""


def plain(spans: Any) -> Any:
    from services.local.page.spans import read

    return read(made.request(spans))[0]


def test_what_happens_is_told_in_its_order(page: Page):
    told = page.evaluate(MESSAGES, plain(made.order("an-order", duplicate=True).spans))
    assert [(one["from"], one["to"], one["label"]) for one in told] == [
        ("client", "orders", "POST /orders"),
        ("orders", "databases", "claim_orders"),
        ("orders", "broker", "billing.pay_all"),
        ("broker", "billing", "billing.pay_all"),
        ("billing", "databases", "move"),
        ("billing", "broker", "reply"),
        ("broker", "orders", "reply"),
        ("orders", "databases", "end_orders"),
        ("orders", "client", "201"),
        ("orders", "broker", "1 event to orders.events"),
        ("broker", "notifications", "order_paid"),
        ("notifications", "databases", "add_letters"),
        ("broker", "notifications", "order_paid"),
        ("notifications", "databases", "add_letters"),
        ("notifications", "notifications", "known already: dropped"),
    ]


def test_an_order_shows_the_round_that_it_shared(page: Page):
    told = page.evaluate(TOGETHER, [plain(made.together(["first", "second", "third"])), "third"])
    assert ["orders", "orders", "a round of 3: _settle_together"] in told
    assert ["broker", "billing", "billing.pay_all"] in told
    assert [one for one in told if one[2] == "POST /orders"] == [["client", "orders", "POST /orders"]]


def test_what_the_browser_remembers_is_bounded(page: Page):
    spans = plain(made.order("an-order").spans)
    sizes = page.evaluate(KEPT, [spans, 500])
    assert sizes[0] == 1000 and max(sizes) == 1000
    assert sizes[4] <= 1000 / len(spans) + 2


def test_a_thousand_orders_do_not_make_the_page_grow(page: Page, stack: Stack):
    def elements() -> int:
        return int(page.evaluate("document.querySelectorAll('*').length"))

    page.get_by_label("follow the newest").uncheck()
    order_id = new_order(stack)
    select(page, order_id)
    orders = [made.order(f"order {number}" if number < 940 else order_id, at_ms=number) for number in range(1000)]
    for first in range(0, 1000, 100):
        send_spans(stack, [span for one in orders[first : first + 100] for span in one.spans])
    expect(page.locator("#position")).to_have_text(re.compile(r"^[6-9]\d\d of"), timeout=ENDED_MS)
    # an order with that many messages is drawn from its last ones
    assert page.locator("#diagram .message").count() == 250
    assert elements() < 4000


def test_who_reconnects_sees_each_order_once_and_misses_none(page: Page, stack: Stack):
    page.get_by_label("follow the newest").uncheck()
    order_id = new_order(stack)
    select(page, order_id)
    before = len(drawn(page))
    one = made.order(order_id)
    send_spans(stack, one.spans[:9])
    wait_for(lambda: len(drawn(page)) > before, SEEN_S, "the first half")
    page.context.set_offline(True)
    expect(page.locator("#where")).to_have_text("not connected", timeout=ENDED_MS)
    send_spans(stack, one.spans[9:])
    page.context.set_offline(False)
    expect(page.locator("#diagram")).to_contain_text("order_paid", timeout=ENDED_MS)
    expect(page.locator("#notice")).to_be_hidden(timeout=ENDED_MS)
    rows = page.locator("#orders [data-order]").evaluate_all("all => all.map((one) => one.dataset.order)")
    assert len(rows) == len(set(rows)) and order_id in rows


def test_a_gateway_that_was_killed_has_forgotten_and_says_so(page: Page, stack: Stack):
    send_spans(stack, made.order("an-order").spans)
    expect(page.locator("#where")).not_to_contain_text(" 0 spans")
    stack.supervisor.kill(GATEWAY, 0.2)
    expect(page.locator("#notice")).to_contain_text("no longer in memory", timeout=ENDED_MS)
    expect(page.locator("#where")).to_contain_text("stack mode", timeout=ENDED_MS)
    play_all(page)


@pytest.mark.usefixtures("lesson_without")
def test_without_the_token_one_may_only_look(browser: Browser, stack: Stack):
    page = watched(opened(browser, stack, token="wrong"))
    expect(page.locator("#where")).to_contain_text("without the token")
    expect(page.get_by_role("button", name="Run the audit")).to_be_disabled()
    open_tab(page, "Break")
    for button in page.locator("#parts button:visible").all():
        expect(button).to_be_disabled()
    answer = page.evaluate("fetch('/page/parts/billing/kill', { method: 'POST' }).then((one) => one.json())")
    assert answer["status"] == 403 and answer["type"].endswith(":wrong-token")
    page.context.close()


def test_the_token_does_not_stay_in_the_address(page: Page):
    assert TOKEN not in page.url


def test_a_part_is_shown_frozen_and_thawed(page: Page, stack: Stack):
    open_tab(page, "Break")
    part = page.locator('[data-part="database"]')
    page.get_by_role("button", name="Freeze database").click()
    expect(part).to_contain_text("frozen")
    expect(page.locator("#orders")).to_contain_text("away", timeout=ENDED_MS)
    expect(page.locator("#notice")).to_contain_text("database is frozen")
    page.get_by_role("button", name="Thaw database").click()
    expect(part).to_contain_text("running")
    expect(page.locator("#orders tbody tr").first).to_be_visible(timeout=ENDED_MS)
    wait_for(stack.is_ready, SEEN_S, "the services to be ready again")


def test_billing_is_killed_in_the_middle_and_everything_heals(page: Page, stack: Stack):
    burst_and_kill(page)
    open_tab(page, "Break")
    expect(page.locator('[data-part="billing"]')).to_have_class(re.compile("dead|starting"), timeout=ENDED_MS)
    expect(page.locator('[data-part="billing"]')).to_have_class("running", timeout=ENDED_MS)
    open_tab(page, "Do")
    said = page.locator("#burst-said")
    expect(said).to_contain_text("Done", timeout=LESSON_MS)
    expect(said).to_contain_text("different orders 100; ended 100 \u00d7 paid.")
    expect(page.locator("#verdict.clean")).to_be_visible(timeout=ENDED_MS)


@pytest.mark.parametrize(
    "lesson, prediction, is_right",
    [("same-key", "three", False), ("letter-twice", "one", True), ("lost-answer", "once", True)],
)
def test_a_lesson_shows_what_happens(page: Page, lesson: str, prediction: str, is_right: bool):
    outcome = predict_and_start(page, lesson, prediction)
    expect(outcome.locator("p.right" if is_right else "p.wrong")).to_be_visible(timeout=LESSON_MS)
    expect(outcome).to_have_attribute("data-answer", {"same-key": "one"}.get(lesson, prediction))
    box = page.locator(f"#lesson-{lesson}")
    box.get_by_text("The lines of code").click()
    expect(box.locator("figcaption").first).to_contain_text("services/")


def test_the_page_works_while_the_broker_is_away(page: Page):
    outcome = predict_and_start(page, "broker-away", "later")
    expect(page.locator("#notice")).to_contain_text("broker is dead", timeout=ENDED_MS)
    expect(page.locator("#diagram [data-lane=broker].down")).to_be_visible()
    expect(page.locator("#orders tbody tr").first).to_contain_text("pending", timeout=ENDED_MS)
    expect(outcome.locator("p.right")).to_be_visible(timeout=LESSON_MS)


def test_the_audit_finds_what_is_wrong_without_a_safeguard(lesson_without: Any):
    expect(lesson_without.locator("p.right")).to_contain_text("order_paid", timeout=LESSON_MS)


@pytest.mark.parametrize("scheme, viewport", [("light", None), ("dark", PHONE)], ids=["projector", "phone"])
def test_nothing_is_in_the_way_of_anybody(browser: Browser, stack: Stack, scheme: Any, viewport: Any):
    assert AXE.exists(), "`make test` installs axe-core, with npm"
    options = {"viewport": viewport} if viewport else {}
    page = watched(opened(browser, stack, color_scheme=scheme, reduced_motion="reduce", **options))
    order_id = new_order(stack)
    send_spans(stack, made.order(order_id, duplicate=True).spans)
    expect(page.locator("#diagram .message").first).to_be_visible(timeout=ENDED_MS)
    page.locator("#as-table > summary").click()
    page.evaluate(AXE.read_text())
    open_tab(page, "Lessons")
    for summary in page.locator(".lesson > summary").all():
        summary.click()
    page.evaluate("document.querySelectorAll('[role=tabpanel]').forEach((one) => { one.hidden = false })")
    found = page.evaluate("axe.run().then((all) => all.violations.map((one) => [one.id, one.nodes[0].html]))")
    assert found == []
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], "the page itself should not scroll sideways"
    page.context.close()


def test_everything_is_reached_by_the_keyboard(page: Page):
    page.locator("#tab-do").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#break")).to_be_visible()
    expect(page.locator("#tab-break")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#do")).to_be_visible()
    page.locator("#play-all").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#steps .holds")).to_have_count(8, timeout=ENDED_MS)
    page.locator("#orders [data-order]").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#orders tr.selected [data-order]")).to_be_focused()
    expect(page.locator("#live")).not_to_be_empty()


def test_the_browser_has_asked_nobody_else(stack: Stack):
    assert asked_for and all(url.startswith(f"{stack.url}/") for url in asked_for)
    assert complaints == []
