"""What is pinned is what setup.cfg asks for, with all that it brings, by hash, and fits every Python that we run on."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.packages import FILES, PEER, PINS, direct, pins_in, versions_in

ALL = {name: version for file in FILES for name, version in versions_in(PINS / f"{file}.txt").items()}
WRITTEN = [*(PINS / f"{file}.txt" for file in FILES), PEER / "requirements.txt"]


def required_python(name: str) -> SpecifierSet:
    """What a package of the pinned version asks for; nothing of one that is not installed here."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return SpecifierSet()
    asked = installed.metadata["Requires-Python"] if "Requires-Python" in installed.metadata else ""
    return SpecifierSet(asked if installed.version == ALL[name] else "")


def brought(asked: Requirement, seen: set[str]) -> Iterator[str]:
    """Yield the names of a requirement and of all that it brings on this machine, as far as it is installed here."""
    name = canonicalize_name(asked.name)
    yield name
    try:
        needs = [Requirement(one) for one in distribution(name).requires or []]
    except PackageNotFoundError:
        return
    for extra in ("", *sorted(asked.extras)):
        for need in needs:
            if f"{need}{extra}" not in seen and (need.marker is None or need.marker.evaluate({"extra": extra})):
                seen.add(f"{need}{extra}")
                yield from brought(need, seen)


@pytest.mark.parametrize("python", ["3.11.2", "3.12.3", "3.13.5"])  # of Debian 12, Ubuntu 24.04, Debian 13
def test_every_pin_can_be_installed_on_each_python(python):
    assert {name: str(asked) for name in ALL if python not in (asked := required_python(name))} == {}


@pytest.mark.parametrize("file", FILES)
def test_what_setup_cfg_asks_for_is_pinned_with_all_that_it_brings(file):
    pins = {pin.name: pin for pin in pins_in(PINS / f"{file}.txt") if pin.marker is None or pin.marker.evaluate()}
    asked = [Requirement(one) for one in direct(file)]
    assert [
        one for one in asked if versions_in(PINS / f"{file}.txt")[canonicalize_name(one.name)] not in one.specifier
    ] == []
    assert {name for one in asked for name in brought(one, set())} - set(pins) == set()


def test_a_package_has_one_version():
    for file in FILES:
        assert versions_in(PINS / f"{file}.txt").items() <= ALL.items()


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_pin_has_a_hash_and_nothing_names_an_index(file):
    text = re.sub(r"^#.*\n|\\\n", "", file.read_text(), flags=re.MULTILINE)
    pins = [line for line in text.splitlines() if not line.startswith(("--only-binary :all:", "--no-binary ", "-r "))]
    assert pins and all(re.fullmatch(r"[\w.-]+==\S+( ; [^#]*?)? +(--hash=sha256:[0-9a-f]{64} *)+", pin) for pin in pins)


def test_the_peer_is_pinned_as_it_asks():
    asked = dict(line.replace("[standard]", "").split("==") for line in (PEER / "requirements.in").read_text().split())
    assert asked.items() <= versions_in(PEER / "requirements.txt").items()
