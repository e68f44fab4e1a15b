"""The pages and pictures of docs/ say what the IDL, the configuration and the code say."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from services.billing.broker import BillingService
from services.kit.config import Settings
from services.kit.outbox.relay import Relay
from services.notifications.broker import NotificationsService
from services.orders.broker import OrdersService
from services.orders.domain import OrderStatus
from tests.docs import problems, rules
from tests.docs.idl import ASYNCAPI, DOCS, OPENAPI, load

PAGES = sorted(DOCS.glob("*.md"))
DIAGRAMS = sorted((DOCS / "diagrams").glob("*.mmd"))
#: Events that the style broker has left.
LEFT = {"order_paid", "order_rejected"}
STYLES = ["http", "broker", "event-collaboration"]


def pictures(style: str) -> str:
    """The sources of a style's diagrams, each line break within a text undone."""
    sources = [path.read_text() for path in DIAGRAMS if path.name.startswith(style)]
    assert len(sources) == 3
    return "\n".join(sources).replace("--<br/>", "--")


def test_pictures_were_drawn_from_their_sources() -> None:
    drawn = json.loads((DOCS / "diagrams" / "drawn.json").read_text())
    assert sorted(drawn) == sorted(path.stem for path in DIAGRAMS), "draw them anew with `make diagrams`"
    for path in DIAGRAMS:
        for suffix, digest in drawn[path.stem].items():
            data = path.with_suffix(f".{suffix}").read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest, f"{path.stem}.{suffix}: run `make diagrams`"


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_pictures_have_a_background_a_title_and_a_page(path: Path) -> None:
    svg = path.with_suffix(".svg").read_text()
    assert "background-color: white" in svg[: svg.index(">")]
    assert "<title" in svg and "<desc" in svg
    shown = [page.name for page in PAGES if re.search(rf"!\[[^]]+\]\(diagrams/{path.stem}.svg\)", page.read_text())]
    assert [name for name in shown if name != "assignment.ru.md"] and len(shown) <= 2


def test_every_drawing_has_colours_for_a_dark_page_too() -> None:
    dark = (DOCS / "tools" / "dark.css").read_text()
    drawings = [path for path in DOCS.rglob("*.svg") if "node_modules" not in path.parts]
    assert len(drawings) > len(DIAGRAMS)
    assert [path.name for path in drawings if f"><style>{dark}</style>" not in path.read_text()] == []


def test_the_page_of_the_api_lists_every_type_of_problem() -> None:
    assert problems.TABLE.text() == problems.table(), "run `python -m tests.docs.problems`"


def test_the_page_of_security_lists_the_rule_of_every_route() -> None:
    assert rules.TABLE.text() == rules.table(), "run `python -m tests.docs.rules`"


@pytest.mark.parametrize("style", STYLES)
def test_pictures_call_what_the_openapi_has(style: str) -> None:
    paths = load(OPENAPI["clients"])["paths"] | (load(OPENAPI["http"])["paths"] if style == "http" else {})
    known = {(method, re.sub(r"\{\w+\}", "{}", path)) for path, methods in paths.items() for method in methods}
    calls = re.findall(r"\b(GET|POST|PUT) (/[\w/{}]+)", pictures(style) + (DOCS / f"{style}.md").read_text())
    assert calls
    for method, path in calls:
        assert (method.lower(), re.sub(r"\{\w+\}", "{}", path)) in known, f"{method} {path}"


def test_pictures_of_the_broker_name_what_is_on_it() -> None:
    channels = load(ASYNCAPI["broker"])["channels"].values()
    routes = {
        (one["bindings"]["amqp"]["exchange"]["name"], one["address"])
        for one in channels
        if one["bindings"]["amqp"]["is"] == "routingKey"
    }
    queues = {one["address"] for one in channels if one["bindings"]["amqp"]["is"] == "queue"}
    text = pictures("broker")
    named = re.findall(r"(nameko-rpc|\w+\.events), ([\w.]+)", text)
    named += re.findall(r"\| `(nameko-rpc|\w+\.events)` \| `([\w.]+)` \|", (DOCS / "broker.md").read_text())
    assert len(named) > 10
    assert {route for route in named if route[1] != "reply_to"} <= routes
    named_queues = set(re.findall(r"(?:evt-[\w-]+\.\w+|rpc-billing)", text))
    assert len(named_queues) > 2
    assert named_queues <= queues


def test_events_of_event_collaboration_are_those_of_its_asyncapi() -> None:
    messages = set(load(ASYNCAPI["events"])["components"]["messages"]) - LEFT
    sent = set(re.findall(r"-[->x)]+\w: (\w+_\w+)", pictures("event-collaboration")))
    table = set(re.findall(r"^\| `(\w+)` \| `\w+\.events`", (DOCS / "event-collaboration.md").read_text(), re.M))
    assert sent == table == messages


def test_an_order_has_the_states_of_its_picture() -> None:
    text = (DOCS / "diagrams" / "order-life.mmd").read_text()
    states = set(re.findall(r"--> (\w+)", text)) - {"rejected_404"}
    assert states == set(OrderStatus)


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_settings_that_are_named_exist(path: Path) -> None:
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*_S\b", path.read_text())) <= set(Settings.model_fields)


def test_an_order_commits_as_often_as_the_comparison_counts() -> None:
    def commits(*methods: Callable[..., object]) -> int:
        commit = re.compile(r"with self\.(?:db|database)\.(?:get_session|autocommit)\(\)")
        return sum(len(commit.findall(inspect.getsource(one))) for one in methods)

    before = commits(OrdersService._store.work, OrdersService._end, BillingService._pay_all)
    after = commits(NotificationsService._add_paid)
    shared = commits(Relay._mark_published)
    rows = {
        row[0]: row
        for row in (
            re.split(r"\s*\|\s*", line.strip("| ")) for line in (DOCS / "comparison.md").read_text().splitlines()
        )
    }
    assert rows["commits before the answer, at most"][2] == str(before)
    assert rows["commits in all, at most"][2] == str(before + after + shared)
    alone, together = rows["broker for notifications"][1:]
    assert len(alone.split(";")) == before + after
    assert together.startswith(f"{shared}:")
