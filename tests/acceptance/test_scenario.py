"""The assignment's scenario and the Postman suite, against both local modes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.local.stack import ROOT, Stack
from services.scenario import Scenario

POSTMAN = ROOT / "postman"
COLLECTION = POSTMAN / "nameko-hw.postman_collection.json"
NEWMAN_S = 180


@pytest.fixture(params=["embedded", "stack"])
def url(request: pytest.FixtureRequest) -> str:
    """The base URL of each mode in turn."""
    running = request.getfixturevalue(request.param)
    return running.url if isinstance(running, Stack) else running


def newman(url: str, report: Path, *options: str) -> subprocess.CompletedProcess:
    npx = shutil.which("npx")
    assert npx, "npm is needed to run the Postman suite"
    return subprocess.run(
        [
            npx,
            "--no-install",
            "newman",
            "run",
            str(COLLECTION),
            "--env-var",
            f"baseUrl={url}",
            "--color",
            "off",
            "--reporters",
            "cli,htmlextra,json",
            "--reporter-htmlextra-export",
            str(report / "report.html"),
            "--reporter-json-export",
            str(report / "report.json"),
            *options,
        ],
        cwd=POSTMAN,
        capture_output=True,
        text=True,
        timeout=NEWMAN_S,
    )


def test_the_scenario_holds(url: str):
    lines: list[str] = []
    assert Scenario(url, say=lines.append).play() == 0
    assert lines[-1].strip() == "PASSED: 8 of 8 steps hold"


def test_the_postman_suite_passes_and_prints_what_it_sends_and_gets(url: str, tmp_path: Path):
    run = newman(url, tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]
    report = json.loads((tmp_path / "report.json").read_text())["run"]
    assert report["stats"]["assertions"]["total"] > 500
    assert report["failures"] == []
    assert "insufficient_funds" in run.stdout and "/billing/accounts/" in run.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_postman_suite_fails_where_nobody_serves(tmp_path: Path):
    assert newman("http://127.0.0.1:9", tmp_path, "--bail").returncode != 0


def test_the_collection_starts_at_the_domain_of_the_assignment():
    collection = json.loads(COLLECTION.read_text())
    assert {"key": "baseUrl", "value": "http://arch.homework"}.items() <= next(
        variable for variable in collection["variable"] if variable["key"] == "baseUrl"
    ).items()


def test_the_demo_prints_every_step_and_leaves_nothing_behind(tmp_path: Path):
    demo = subprocess.run(
        ["make", "--silent", "--old-file=.venv/run", "demo"],  # what this test runs in is not to be set up anew
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NAMEKO_HW_FOLDER": str(tmp_path)},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    assert demo.stdout.rstrip().endswith("PASSED: 8 of 8 steps hold")
    assert demo.stdout.count("   holds") == 8
    assert (tmp_path / "postgres").exists()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == ""
