"""A short run of `make faults`."""

from pathlib import Path

import pytest

from services.shop import Style
from tests.faults.chaos import run
from tests.selection import EACH_STYLE


@pytest.mark.parametrize("style", EACH_STYLE)
def test_random_faults_under_load_lose_and_double_nothing(tmp_path: Path, style: Style):
    lines: list[str] = []
    assert run(tmp_path, duration_s=15, seed=1, style=style, say=lines.append) == 0, "\n".join(lines)
    assert any("clean: no violations" in line for line in lines)
