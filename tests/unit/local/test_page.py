"""Whom the page serves, and what; without servers."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from services.local.page import receiver
from services.local.page.app import HEADERS, STATIC
from services.local.page.code import OF, snippets
from services.local.page.control import ControlClient
from services.local.page.settings import address, collector, traced_to
from services.local.stack import ROOT
from services.scenario import Scenario
from tests.unit.local.conftest import HERE, RIGHT, TOKEN, problem

CHANGES = [
    "/page/audit",
    "/page/burst",
    "/page/without/inbox",
    "/page/orders/8f0c1c2e-4a57-4b1e-9a5c-6d2f0e7b3a10/publish-again",
    "/page/parts/billing/kill",
]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN[:-1]}], ids=str)
def test_what_changes_something_needs_the_token(page, client, path, headers):
    answer = client.post(path, headers=headers, **HERE)
    assert answer.status_code == 403 and problem(answer) == "wrong-token"
    assert not page.audits.is_running and not page.burst.is_running and not page.without.is_running


def test_every_post_but_that_of_spans_needs_the_token(page):
    changing = {pattern.pattern for method, pattern, _, changes in page.routes if method == "POST" and changes}
    every = {pattern.pattern for method, pattern, _, _ in page.routes if method == "POST"}
    assert every - changing == {receiver.PATH} and len(changing) == len(CHANGES)


@pytest.mark.parametrize("path", ["/", "/page/status", "/page/main.js", "/page/spans", "/page/audit", "/v1/traces"])
@pytest.mark.parametrize(
    "host, headers, name",
    [
        ("evil.example:8000", {}, "wrong-host"),
        ("127.0.0.1.evil.example", {}, "wrong-host"),
        ("[::1", {}, "wrong-host"),
        ("127.0.0.1:8000", {"Origin": "http://evil.example"}, "wrong-origin"),
        ("127.0.0.1:8000", {"Origin": "null"}, "wrong-origin"),
        ("127.0.0.1:8000", {"Origin": "http://127.0.0.1:9000"}, "wrong-origin"),
    ],
)
def test_other_sites_are_refused(client, path, host, headers, name):
    for method in ("GET", "POST"):
        answer = client.open(path, method=method, headers={"Host": host} | headers | RIGHT, **HERE)
        assert answer.status_code == 403 and problem(answer) == name


def test_other_machines_are_refused(client):
    answer = client.get("/", base_url="http://127.0.0.1:8000", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 403 and problem(answer) == "wrong-host"


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/status", "/page/nothing", "/page/parts/x/y"])
def test_every_answer_has_the_security_headers(client, path):
    answer = client.get(path, **HERE)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_files_have_nothing_inline_and_nothing_from_elsewhere():
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", html)
    for file in STATIC.iterdir():
        urls = set(re.findall(r"https?://[\w./]+", file.read_text()))
        assert urls <= {"http://www.w3.org/2000/svg"}, file


def test_every_file_that_is_named_is_there_and_served(client):
    named = {"index.html"}
    for file in STATIC.iterdir():
        named |= {a or b for a, b in re.findall(r"from '\./([\w.]+)'|\"/page/([\w-]+\.\w+)\"", file.read_text())}
    assert named == {file.name for file in STATIC.iterdir()}
    for name in named - {"index.html"}:
        answer = client.get(f"/page/{name}", **HERE)
        kind = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[Path(name).suffix]
        assert answer.status_code == 200 and answer.mimetype == kind


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/app.py", "/page/static/main.js", "/page/code/x", "/page/"])
def test_nothing_else_is_served(client, path):
    answer = client.get(path, **HERE)
    assert answer.status_code == 404 and problem(answer) == "no-such-path"


@pytest.mark.parametrize("path", ["/page/orders/x", "/page/orders?user_id=1", "/page/parts/x/kill?down_s=1000"])
def test_a_bad_value_is_named(page, client, path):
    object.__setattr__(page.where, "control", ControlClient(Path("/nowhere")))
    method = "POST" if "parts" in path else "GET"
    answer = client.open(path, method=method, headers=RIGHT, **HERE)
    assert answer.status_code == 422 and problem(answer) == "invalid-request"


def test_a_method_that_is_not_served_is_named(client):
    answer = client.delete("/page/status", **HERE)
    assert answer.status_code == 405 and answer.headers["Allow"] == "GET"


def test_databases_that_are_away_are_said_to_be(client):
    assert client.get("/page/orders", **HERE).json == {"orders": "away", "users": "away"}
    state = client.get(f"/page/orders/{uuid4()}", **HERE).json
    assert set(state.values()) == {"away"}


# --- the rest


def test_the_steps_are_those_of_the_scenario():
    text = (STATIC / "steps.js").read_text()
    assert re.findall(r"\['(.*?)', \(show\)", text) == [title for title, _ in Scenario("").steps()]


@pytest.mark.parametrize("lesson", OF)
def test_the_lines_of_each_lesson_are_found(lesson):
    for one in snippets(lesson):
        assert one["name"] in one["text"]
        assert (ROOT / one["file"]).read_text().splitlines()[one["first"] - 1] == one["text"].splitlines()[0]


def test_each_lesson_has_its_lines():
    assert re.findall(r"^    id: '([\w-]+)'", (STATIC / "lessons.js").read_text(), re.M) == list(OF)


@pytest.mark.parametrize(
    "environ, traced",
    [
        ({}, "http://127.0.0.1:8000"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, None),
        ({"OTEL_SDK_DISABLED": "TRUE"}, None),
    ],
    ids=str,
)
def test_traces_go_to_the_page_unless_somebody_wants_them_elsewhere(environ, traced):
    assert traced_to(8000, environ).get("OTEL_EXPORTER_OTLP_ENDPOINT") == traced
    assert (collector(environ) is None) == (traced is not None or "OTEL_SDK_DISABLED" in environ)


def test_traces_pass_by_a_proxy():
    assert traced_to(8000, {})["no_proxy"] == "127.0.0.1"
    assert traced_to(8000, {"NO_PROXY": "example.com"})["no_proxy"] == "example.com,127.0.0.1"


def test_the_token_is_not_sent_with_the_url():
    assert address(8000, "t") == "http://127.0.0.1:8000/#token=t"
