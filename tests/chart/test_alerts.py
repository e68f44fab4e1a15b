"""The alert rules: they read well, do what their unit tests say, and each has a line that says what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.test_files import measured, queried
from tests.chart.values_table import CHART
from tests.docs.idl import ROOT
from tests.prometheus import configure, program

RULES = CHART / "files" / "alerts.yaml"
UNIT_TESTS = Path(__file__).with_name("alerts.yaml")


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_the_configuration_of_compose(tmp_path: Path):
    promtool("check", "rules", RULES)
    promtool("check", "config", configure(tmp_path))


def test_each_alert_fires_when_it_should_and_only_then():
    promtool("test", "rules", UNIT_TESTS)


def test_each_alert_is_seen_silent_and_firing():
    expected: dict[str, set[bool]] = {}
    for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for one in test["alert_rule_test"]:
            expected.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert expected == {rule["alert"]: {False, True} for rule in rules()}


def test_the_rules_ask_only_for_what_is_measured():
    queried([rule["expr"] for rule in rules()])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_how_bad_it_is_and_leads_to_what_to_do(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    assert re.search(rf"^### {rule['alert']}\n\n\S", (ROOT / page).read_text(), re.MULTILINE)


def test_every_metric_and_every_alert_is_in_the_page_for_operators():
    page = (ROOT / "docs" / "operations.md").read_text()
    ours = {name for name, _ in measured() if name.startswith("nameko_hw_") and not name.endswith("_created")}
    assert {name for name in ours if f"`{name}`" not in page and f"`{name}_total`" not in page} == set()
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in rules()]
