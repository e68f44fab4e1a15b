"""The assignment's scenario and the Postman suite, against both local modes."""

import json
import os
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from services import scenario
from services.local import tokens
from services.local.stack import ROOT, Stack
from services.scenario import Scenario
from tests.acceptance.later import Later
from tests.acceptance.newman import COLLECTION, newman
from tests.conftest import QUICK, Embedded

FOR_EVER = 1_000_000


@pytest.fixture(params=["embedded", "stack"])
def url(request: pytest.FixtureRequest) -> str:
    """The base URL of each mode in turn."""
    running = request.getfixturevalue(request.param)
    return running.url if isinstance(running, Stack) else running


def test_the_scenario_holds(url: str):
    lines: list[str] = []
    assert Scenario(url, say=lines.append).play() == 0
    assert lines[-1].strip() == "PASSED: 8 of 8 steps hold"
    if not any('"pending"' in line for line in lines):  # then nothing is asked for a second time
        assert sum(line.startswith("   > ") for line in lines) == 10


def test_the_scenario_asks_for_what_is_pending(embedded: str):
    lines: list[str] = []
    with Later(embedded) as later:
        assert Scenario(later.url, say=lines.append).play() == 0
    assert lines.count("   < 202 ACCEPTED") == 2
    asked_for = [line.split("/")[1] for line in lines if line.startswith("   > GET")]
    assert (asked_for.count("users"), asked_for.count("orders")) == (1, 2)  # of many times, only the last is printed


def test_the_scenario_fails_if_an_order_stays_pending(embedded: str, monkeypatch: pytest.MonkeyPatch):
    with Later(embedded) as later:
        playing = Scenario(later.url)
        playing.create_user()
        later.times = FOR_EVER
        monkeypatch.setattr(scenario, "END_S", 0.2)
        with pytest.raises(scenario.Unexpected, match="the order is paid"):
            playing.place_paid_order()


def test_the_postman_suite_passes_and_prints_what_it_sends_and_gets(url: str, tmp_path: Path):
    run = newman(url, tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]
    report = json.loads((tmp_path / "report.json").read_text())["run"]
    assert report["stats"]["assertions"]["total"] > 500
    assert report["failures"] == []
    assert "insufficient_funds" in run.stdout and "/billing/accounts/" in run.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.long  # test_auth.py asks every route, in a tenth of the time
def test_the_scenario_and_the_postman_suite_pass_with_tokens(tmp_path: Path):
    """Of the local key, which what runs here takes by itself."""
    with Embedded(tmp_path, {**QUICK, "AUTH": "jwt"}) as running:
        here = {"AUTH": "jwt", "AUTH_ISSUER": tokens.ISSUER, "NAMEKO_HW_FOLDER": str(tmp_path)}
        admins = tokens.admins_token(here)
        assert Scenario(running.url, say=lambda line: None).play() == 1, "there is no token"
        assert Scenario(running.url, say=lambda line: None, token=admins).play() == 0
        users = tokens.token(str(uuid4()), "orders:read orders:write", environ=here)
        run = newman(running.url, tmp_path, "--env-var", f"token={admins}", "--env-var", f"userToken={users}")
    assert run.returncode == 0, run.stdout[-5000:]
    report = json.loads((tmp_path / "report.json").read_text())["run"]
    assert {403, 401} <= {one["response"]["code"] for one in report["executions"]}
    assert report["failures"] == []
    assert str(admins) not in run.stdout and users not in run.stdout, "the token is printed"


def test_the_postman_suite_asks_for_what_is_pending(embedded: str, tmp_path: Path):
    with Later(embedded) as later:
        run = newman(later.url, tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]
    assert run.stdout.count("202 ACCEPTED") >= 5


def test_the_postman_suite_fails_if_anything_stays_pending(embedded: str, tmp_path: Path):
    with Later(embedded, times=FOR_EVER) as later:
        run = newman(later.url, tmp_path, "--env-var", "deadlineS=0.3", "--env-var", "accountDeadlineS=0.3")
    assert run.returncode != 0
    report = json.loads((tmp_path / "report.json").read_text())["run"]
    lost = {failure["error"]["test"] for failure in report["failures"]}
    assert {
        "the user is active",
        "the order is no longer pending",
        "the answer is final",
        "the orders of the unknown user are over",
    } <= lost


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
