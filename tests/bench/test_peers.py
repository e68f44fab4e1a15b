"""The peers of the benchmark: one that cannot be installed is left out, and the others take turns."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import load, peers
from services.local import needs
from services.local.installing import Failed
from tests.bench import test_report


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without any program, on which nobody may install one; returns its folder of programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "_as_root", lambda: None)
    monkeypatch.setattr(needs, "GO_PATH", tmp_path / "gocode")
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_peer_whose_tools_are_missing_is_left_out_with_a_line(bare, capsys):
    assert peers.installed([peers.Node, peers.Go]) == []
    node, go = capsys.readouterr().out.splitlines()
    assert node.startswith("The peer Node is left out: npm, with Node.js 18 or later, is missing: sudo apt-get install")
    assert go.startswith("The peer Go is left out: Go, with the libraries of its peer in bench/, is missing: sudo apt")
    assert "golang-github-jackc-pgx-v4-dev" in go


def test_an_old_node_is_not_enough(bare, capsys):
    script(bare / "node", "echo v16.20.2")
    script(bare / "npm", "")
    assert peers.installed([peers.Node]) == []
    assert "left out: Node.js 18 or later is missing" in capsys.readouterr().out


def test_a_go_without_the_libraries_is_not_enough(bare, capsys):
    script(bare / "go", "")
    assert peers.installed([peers.Go]) == []
    assert "left out: Go, with the libraries" in capsys.readouterr().out


def test_a_peer_whose_installer_fails_is_left_out_and_the_next_is_not(monkeypatch, capsys):
    def fail() -> None:
        raise Failed("npm's packages: failed with code 1; the end of npm.log:\nno network")

    monkeypatch.setattr(peers.FastAPI, "install", lambda: None)
    monkeypatch.setattr(peers.Node, "install", fail)
    assert peers.installed([peers.Node, peers.FastAPI]) == [peers.FastAPI]
    assert capsys.readouterr().out.splitlines() == [
        "The peer Node is left out: npm's packages: failed with code 1; the end of npm.log:"
    ]


@dataclass
class Named:
    """A contender of which only the name matters."""

    name: str


def test_contenders_take_turns_after_a_warm_up_each(monkeypatch):
    loaded = []

    def run(contender, users, clients, seconds):
        assert users == [f"a user of {contender.name}"]
        loaded.append((contender.name, clients))
        return test_report.RUN

    monkeypatch.setattr(load, "run", run)
    contenders: Any = [Named(name) for name in "ABC"]
    users = {one.name: [f"a user of {one.name}"] for one in contenders}
    runs = load.in_turns(contenders, users, [1, 64], pairs=2, seconds=6)
    warm_up, measured = loaded[:3], loaded[3:]
    assert warm_up == [(name, load.WARM_UP_CLIENTS) for name in "ABC"]
    assert measured == [(name, clients) for clients in (1, 64) for _ in range(2) for name in "ABC"]
    assert len(runs) == len(measured)


@pytest.mark.parametrize("peer", peers.ALL)
def test_the_versions_of_a_peer_are_described_without_its_tools(peer, bare):
    assert ("not installed" in peer.versions()) == (peer is not peers.FastAPI)


@pytest.mark.parametrize(
    ("program", "arguments"), [("gofmt", ["-l", str(peers.Go.folder)]), ("node", ["--check", "peer.js"])]
)
def test_the_sources_of_the_peers_are_in_order(program, arguments):
    if not shutil.which(program):
        pytest.skip(f"there is no {program}")
    found = subprocess.run([program, *arguments], cwd=peers.Node.folder, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
