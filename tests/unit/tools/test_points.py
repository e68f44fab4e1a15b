"""The list of crash points follows the code wherever it moves, and fails on a place that no process reaches."""

import shutil
from pathlib import Path

import pytest

from services.local.stack import ROOT
from tests.faults import points
from tests.faults.points import all_points

UNREACHED = """
class Shouter:
    def shout(self):
        self.publisher.publish([])
"""
BELOW_A_CONDITION = """
if True:
    def shout(publisher):
        publisher.publish([])
"""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the services, of which the list is made."""
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(points, "ROOT", tmp_path)
    return tmp_path / "services"


def move(services: Path, old: str, new: str) -> None:
    """Move a module, and change its name wherever it is imported."""
    (services / new).parent.mkdir(parents=True)
    (services / old).rename(services / new)
    names = [f"services.{path.removesuffix('.py').replace('/', '.')}" for path in (old, new)]
    for file in services.rglob("*.py"):
        file.write_text(file.read_text().replace(names[0], names[1]))


@pytest.mark.parametrize("file", ["kit/outbox/relay.py", "kit/inbox/provider.py", "kit/recovery.py"])
def test_a_file_that_moves_takes_its_points_along(copy: Path, file: str):
    def found(path: str) -> list[tuple[str, str, str]]:
        listed = [(one.service, one.kind, one.name.replace(f"services/{path}:", "")) for one in all_points()]
        assert any(":" not in name for _, _, name in listed), f"{path} has no points"
        return sorted(listed)

    before = found(file)
    moved = f"kit/a/deep/folder/{Path(file).name}"
    move(copy, file, moved)
    assert found(moved) == before


def test_a_new_file_that_is_used_adds_its_points(copy: Path):
    number = len(all_points())
    (copy / "kit" / "shouting.py").write_text(UNREACHED)
    service = copy / "orders" / "broker.py"
    service.write_text(
        service.read_text()
        .replace("\nclass OrdersService", "\nfrom services.kit.shouting import Shouter\n\n\nclass OrdersService", 1)
        .replace("busy = Busy()", "busy = Busy()\n    shouter = Shouter()", 1)
    )
    added = [str(point) for point in all_points() if "shouting" in point.file]
    assert added == ["orders: publish in services/kit/shouting.py:Shouter.shout#1"]
    assert len(all_points()) == number + 1


@pytest.mark.parametrize("folder", ["kit", "kit/a/deep/folder", "orders", "."])
def test_a_new_file_that_nobody_uses_is_an_error(copy: Path, folder: str):
    file = copy / folder / "shouting.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(UNREACHED)
    with pytest.raises(AssertionError, match=r"nobody runs .*shouting\.py"):
        all_points()


def test_a_place_below_a_condition_is_not_overlooked(copy: Path):
    (copy / "kit" / "shouting.py").write_text(BELOW_A_CONDITION)
    with pytest.raises(AssertionError, match=r"nobody runs .*shouting\.py"):
        all_points()
    (copy / "kit" / "shouting.py").unlink()
    recovery = copy / "kit" / "recovery.py"
    recovery.write_text(recovery.read_text() + BELOW_A_CONDITION)
    added = [one.service for one in all_points() if one.kind == "publish" and one.file == "services/kit/recovery.py"]
    assert sorted(added) == ["orders", "users"]


def test_a_new_function_that_nobody_uses_is_an_error(copy: Path):
    relay = copy / "kit" / "outbox" / "relay.py"
    relay.write_text(relay.read_text() + "\n\ndef shout(publisher):\n    publisher.send([])\n")
    with pytest.raises(AssertionError, match=r"nobody runs .*relay\.py"):
        all_points()
