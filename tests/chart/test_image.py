"""The image, as far as it can be judged without building it."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.local.stack import ROOT
from tests.chart.objects import render
from tests.chart.values_table import CHART

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = DOCKERFILE.split("\nFROM ")[1:]


def test_hadolint_has_nothing_to_complain_of():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("there is no hadolint for this platform")
    checked = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_one_version_is_everywhere():
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    version = package["metadata"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    [image] = {one["image"] for one in compose["services"].values() if "build" in one}
    assert chart["version"] == chart["appVersion"] == version
    assert image == render().pod("nameko-hw-orders").spec["containers"][0]["image"] == f"nameko-hw:{version}"
    assert f"ARG VERSION={version}\n" in DOCKERFILE


def test_the_last_stage_has_no_tools_and_no_root():
    assert len(STAGES) == 2
    assert not re.search(r"^(RUN|ADD) ", STAGES[-1], re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", STAGES[-1], re.MULTILINE)


def test_every_package_is_pinned():
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert installs and all("--constraint constraints.txt" in one for one in installs)
    assert "--no-build-isolation" in DOCKERFILE  # which would fetch whatever is newest


@pytest.mark.parametrize("label", ["title", "description", "version", "revision", "licenses"])
def test_the_image_says_what_it_is(label: str):
    assert f"org.opencontainers.image.{label}=" in STAGES[-1]


def test_what_is_copied_is_there_and_is_not_ignored():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source for one in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE) for source in one.split()[:-1]
    }
    assert lines[1] == "*"
    assert {source.partition("/__init__")[0] for source in copied} == kept
    assert all((ROOT / source).exists() for source in copied)


def test_the_services_listen_where_the_chart_looks_for_them():
    [address] = re.findall(r"WEB_SERVER_ADDRESS=(\S+)", STAGES[-1])
    [port] = render().pod("nameko-hw-orders").spec["containers"][0]["ports"]
    assert address == f"0.0.0.0:{port['containerPort']}"
