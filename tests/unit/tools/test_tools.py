"""What a contributor's tools are told fits the project: hooks, workflow, updates, the version."""

import configparser
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

from services.local.stack import ROOT

BIN = Path(sys.executable).parent
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def in_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # Nameko teaches the others to read ${...}


def test_every_hook_is_a_program_of_the_environment():
    config = ROOT / ".pre-commit-config.yaml"
    checked = subprocess.run([BIN / "pre-commit", "validate-config", str(config)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for repository in in_yaml(config)["repos"]:
        assert repository["repo"] == "local"  # nothing is fetched
        for hook in repository["hooks"]:
            program = Path(hook["entry"].split()[0])
            assert program.parent == Path(".venv/bin") and (BIN / program.name).exists(), program


def test_the_workflow_runs_on_every_python_that_the_package_takes():
    matrix = in_yaml(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"]
    taken = SpecifierSet(setup_cfg()["options"]["python_requires"])
    assert matrix == [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in taken]
    [found] = re.findall(r"^PYTHON \?= .*for one in (.*); do", (ROOT / "Makefile").read_text(), re.M)
    assert {f"python{version}" for version in matrix} <= set(found.split())


def test_actions_are_pinned_by_digest_with_their_version():
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", one)] == []


def test_updates_are_looked_for_wherever_packages_are_pinned():
    updates = in_yaml(ROOT / ".github" / "dependabot.yml")["updates"]
    npm = {folder for one in updates for folder in one.get("directories", ())}
    found = subprocess.run(
        ["find", ".", "-name", "package-lock.json", "-not", "-path", "*/node_modules/*", "-not", "-path", "./.*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert npm == {str(Path(line[1:]).parent) for line in found.stdout.splitlines()}
    others = {one["package-ecosystem"] for one in updates} - {"npm"}
    assert others == {"pip", "github-actions", "docker", "docker-compose"}


def test_pages_name_the_image_of_this_version():
    pages = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md")) if page.name != "CHANGELOG.md"]
    tags = {tag for page in pages for tag in re.findall(r"nameko-hw:(\d+\.\d+\.\d+)", page.read_text())}
    assert tags == {setup_cfg()["metadata"]["version"]}
