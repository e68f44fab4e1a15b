"""A real Prometheus that reads the metrics of a running stack, configured as Docker Compose has it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from services.local.needs import PROMETHEUS, NotInstalled, ensure, search_path
from services.local.net import HOST, free_port, wait_for
from services.local.stack import ROOT
from services.local.supervisor import dies_with_parent
from tests.chart.values_table import CHART

READY_S = 30
STOP_S = 30


def program(name: str) -> str:
    """Return the path of a program of Debian's package `prometheus`; skip the test where it cannot be had."""
    try:
        ensure([PROMETHEUS])
    except NotInstalled as error:
        pytest.skip(str(error))
    found = shutil.which(name, path=search_path())
    assert found is not None
    return found


def configure(folder: Path, targets: dict[str, str] | None = None) -> Path:
    """Write the configuration of Docker Compose and the alert rules into a folder; for `targets`, with short pauses."""
    config = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())
    if targets is not None:
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [address], "labels": {"instance": name, "service": f"nameko-hw-{name}"}}  # as in a cluster
            for name, address in targets.items()
        ]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(CHART / "files" / "alerts.yaml", folder)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


class Prometheus:
    """It reads `targets`, addresses like `127.0.0.1:8000` by their names, and keeps its data in `folder`."""

    def __init__(self, folder: Path, targets: dict[str, str], *options: str) -> None:
        self.folder = folder
        self.url = f"http://{HOST}:{(port := free_port())}"
        self.log = folder / "prometheus.log"
        self.command = [
            *dies_with_parent("TERM"),
            program("prometheus"),
            f"--config.file={configure(folder, targets).name}",
            "--storage.tsdb.path=data",
            f"--web.listen-address={HOST}:{port}",
            *options,
        ]

    def __enter__(self) -> "Prometheus":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        wait_for(self._is_ready, READY_S, f"Prometheus, see {self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(STOP_S)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=5).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now: `metric`, its labels, and `value`, time and value."""
        series: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return series

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"}
