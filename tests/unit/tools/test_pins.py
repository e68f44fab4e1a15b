"""What is pinned can be installed on every Python that we promise to run on."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.specifiers import SpecifierSet

from services.local.stack import ROOT

PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def required_python(name: str) -> SpecifierSet:
    """What a package of the pinned version asks for; nothing of one that is not installed here."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return SpecifierSet()
    asked = installed.metadata["Requires-Python"] if "Requires-Python" in installed.metadata else ""
    return SpecifierSet(asked if installed.version == PINS[name] else "")


@pytest.mark.parametrize("python", ["3.11.2", "3.12.3", "3.13.5"])  # of Debian 12, Ubuntu 24.04, Debian 13
def test_every_pin_can_be_installed_on_each_python(python):
    assert {name: str(asked) for name in PINS if python not in (asked := required_python(name))} == {}
