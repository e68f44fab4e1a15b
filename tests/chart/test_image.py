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


def test_the_last_stage_has_no_root_and_only_what_is_copied_into_it():
    assert [stage.split()[0] for stage in STAGES] == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}", "scratch"]
    assert not re.search(r"^(RUN|ADD) ", STAGES[-1], re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", STAGES[-1], re.MULTILINE)


def test_every_program_of_the_system_that_is_called_in_the_image_is_there_and_no_other():
    kept = set(re.findall(r"-name '?([\w*]+)", re.search(r"find /usr/bin.*?\+", STAGES[1], re.DOTALL)[0]))
    assert kept - {"dash", "python*"} == called_in_containers() - {"python", "nameko", "nameko-hw"}


def called_in_containers() -> set[str]:
    """The programs that the chart and Compose start in containers of the image, but for what is built into sh."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    commands = [one["command"] for one in compose if "build" in one]
    commands += [one["healthcheck"]["test"][1:] for one in compose if "build" in one]
    for pod in (pod for pod in render().pods() if pod.spec["containers"][0]["image"].startswith("nameko-hw:")):
        for container in (*pod.spec["containers"], *pod.spec.get("initContainers", [])):
            commands.append(container["command"])
            hooks = container.get("lifecycle", {}).values()
            commands += [hook["exec"]["command"] for hook in hooks]
    scripts = [command[2] for command in commands if command[:2] == ["sh", "-c"]]
    words = {word for script in scripts for word in re.findall(r"(?:^|;|&&|\bdo|\bexec) *([\w-]+)", script)}
    return {command[0] for command in commands} | words - {"for", "do", "done", "exit", "exec"}


def test_every_package_is_installed_by_its_hash():
    installs = re.findall(r"pip install ([^&\n]*)", DOCKERFILE.replace("\\\n", ""))
    *packages, ours = installs
    assert [re.search(r"requirements/\w+\.txt", one)[0] for one in packages] == [
        "requirements/build.txt",
        "requirements/image.txt",
    ]
    assert all("--no-deps --require-hashes" in one for one in packages)
    assert ours.strip() == "--no-deps --no-build-isolation --editable ."  # so that nothing is fetched


@pytest.mark.parametrize("label", ["title", "description", "version", "revision", "source", "licenses"])
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
