"""A real Prometheus reads a real stack: every query of the dashboard finds its data, and alerts fire and end."""

import re
from collections.abc import Iterator

import pytest

from services.local.net import HOST, wait_for
from services.local.stack import Stack
from services.shop import SERVICES
from tests.auditor import Auditor, money_from_nowhere
from tests.broker import publish
from tests.chart.test_files import dashboard
from tests.client import Api
from tests.commands import nameko_hw
from tests.prometheus import Prometheus

SEEN_S = 30
#: There are no such series while all is well.
MAY_BE_EMPTY = ("Alerts",)
QUERIES = [
    pytest.param(panel["title"], target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in dashboard()["panels"]
    for target in panel["targets"]
]


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has read the services and the audit while an order was placed."""
    auditor = Auditor(stack)
    targets = {name: f"{HOST}:{stack.ports[name][0]}" for name in SERVICES} | {"audit": f"{HOST}:{auditor.port}"}
    try:
        with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running, Api(stack.url) as api:
            wait_for(lambda: len(running.query("up == 1")) == len(targets), SEEN_S, "Prometheus to read all")
            user_id = api.new_user(balance=10)["id"]
            assert api.order(user_id, 1).json()["status"] == "paid"
            api.letters(user_id, 1)
            yield running
    finally:
        auditor.kill()


@pytest.mark.parametrize("title, expression, legend", QUERIES)
def test_every_query_of_the_dashboard_finds_what_it_shows(
    prometheus: Prometheus, title: str, expression: str, legend: str
):
    expression = expression.replace("$namespace", ".*").replace("$__rate_interval", "1m")
    if title in MAY_BE_EMPTY or "refusals" in expression:
        prometheus.query(expression)
        return
    series = wait_for(lambda: prometheus.query(expression), SEEN_S, expression)
    labels = set(re.findall(r"{{(\w+)}}", legend)) - {"pod"}  # which only a cluster gives
    assert all(labels <= one["metric"].keys() for one in series)


def test_service_is_what_the_metrics_say_and_not_the_target(prometheus: Prometheus):
    def found() -> set[str]:
        return {one["metric"]["service"] for one in prometheus.query('{__name__=~"nameko_hw_.+"}')}

    wait_for(lambda: found() == {*SERVICES, "audit"}, SEEN_S, "a scrape of all, and of nothing else")


def test_all_rules_are_evaluated(prometheus: Prometheus):
    def evaluated() -> bool:
        [group] = prometheus.get("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"])

    wait_for(evaluated, SEEN_S, "every rule to be evaluated")


def test_a_dead_letter_fires_until_it_is_dropped(prometheus: Prometheus, stack: Stack):
    name = "NamekoHwDeadLetters"
    nameko_hw(stack, "dead-letters", "drop", "--all")
    wait_for(lambda: name not in prometheus.firing(), SEEN_S, "silence")
    publish(stack, "orders.events", "order_paid", {"number": "one"})
    wait_for(lambda: name in prometheus.firing(), SEEN_S, "the alert")
    nameko_hw(stack, "dead-letters", "drop", "--all")
    wait_for(lambda: name not in prometheus.firing(), SEEN_S, "the end of the alert")


def test_a_violation_fires_until_it_is_mended(prometheus: Prometheus, stack: Stack):
    name = "NamekoHwAuditViolations"
    wait_for(lambda: name not in prometheus.firing(), SEEN_S, "silence")
    with money_from_nowhere(stack):
        wait_for(lambda: name in prometheus.firing(), SEEN_S, "the alert")
    wait_for(lambda: name not in prometheus.firing(), SEEN_S, "the end of the alert")
