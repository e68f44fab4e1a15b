"""The peers of the benchmark: one that cannot be installed is left out, and the others take turns."""

from dataclasses import dataclass
from typing import Any

from bench import load, peers
from services.local.installing import Failed
from tests.bench import test_report


def test_a_peer_whose_installer_fails_is_left_out(monkeypatch, capsys):
    def fail() -> None:
        raise Failed("npm's packages: failed with code 1; the end of npm.log:\nno network")

    monkeypatch.setattr(peers.FastAPI, "install", fail)
    assert peers.installed() == []
    assert capsys.readouterr().out.splitlines() == [
        "The peer FastAPI is left out: npm's packages: failed with code 1; the end of npm.log:"
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
