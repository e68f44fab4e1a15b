"""The chart's other files: YAML that reads well, scripts that parse, a dashboard of metrics that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest

from services.kit.metrics import metrics_of
from services.local.stack import ROOT
from services.shop import SHOP
from tests.chart.objects import render
from tests.chart.values_table import CHART

YAMLLINT = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, truthy: {check-keys: false}, "
    "braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}"
)

YAML_FILES = [
    "helm/Chart.yaml",
    "helm/values.yaml",
    "helm/files/alerts.yaml",
    "helm/examples/cloudnative-pg.yaml",
    "helm/examples/cloudnative-pg-values.yaml",
    "compose.yaml",
    "config.yaml",
    "docker/prometheus.yml",
    "docker/grafana/datasources.yml",
    "docker/grafana/dashboards.yml",
]


@pytest.mark.parametrize("file", YAML_FILES)
def test_yaml_files_are_clean(file: str):
    checked = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-d", YAMLLINT, str(ROOT / file)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", sorted((CHART / "files").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_need_only_a_plain_shell(script: Path):
    checked = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert script.read_text().startswith("#!/bin/sh\n")


def measured() -> list[tuple[str, str]]:
    """The names and types of all metrics of this process, with those of the product."""
    metrics_of(SHOP.name)
    return re.findall(r"^# TYPE (\w+) (\w+)$", prometheus_client.generate_latest().decode(), re.MULTILINE)


def queried(queries: list[str]) -> set[str]:
    """Return the metrics of ours that queries of Prometheus ask for, all of which must exist."""
    known = {name for name, kind in measured() if kind != "histogram"}
    known |= {f"{name}_{part}" for name, kind in measured() if kind == "histogram" for part in ("bucket", "count")}
    asked = {name for query in queries for name in re.findall(r"\b(?:nameko_hw|process)_\w+", query)}
    assert asked and asked <= known
    return asked


def test_the_dashboard_asks_only_for_what_is_measured():
    queried([target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]])


def test_the_dashboard_shows_every_metric_of_ours():
    ours = {name for name, _ in measured() if name.startswith("nameko_hw_") and not name.endswith("_created")}
    text = json.dumps(dashboard())
    assert ours and {name for name in ours if name not in text} == set()


def test_panels_of_the_dashboard_do_not_overlap():
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def dashboard() -> dict:
    return json.loads((CHART / "files" / "dashboard.json").read_text())


def test_the_dashboard_arrives_whole():
    config = render({"dashboard": {"enabled": True}}).one("ConfigMap", "nameko-hw-dashboard")
    assert json.loads(config["data"]["nameko-hw.json"]) == dashboard()
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize(
    "file, config, key",
    [
        ("postgres-roles.sh", "postgres", "roles.sh"),
        ("rabbitmq-definitions.sh", "rabbitmq", "definitions.sh"),
    ],
)
def test_the_scripts_arrive_whole(file: str, config: str, key: str):
    arrived = render().one("ConfigMap", f"nameko-hw-{config}")["data"][key]
    assert arrived.rstrip() == (CHART / "files" / file).read_text().rstrip()
