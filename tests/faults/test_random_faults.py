"""A short run of `make faults`."""

from pathlib import Path

import pytest

from services.shop import DEFAULT_STYLE, STYLES
from tests.faults.chaos import run


@pytest.mark.parametrize(
    "style", [pytest.param(style, marks=() if style == DEFAULT_STYLE else pytest.mark.styles) for style in STYLES]
)
def test_random_faults_under_load_lose_and_double_nothing(tmp_path: Path, style: str):
    lines: list[str] = []
    assert run(tmp_path, duration_s=15, seed=1, style=STYLES[style], say=lines.append) == 0, "\n".join(lines)
    assert any("clean: no violations" in line for line in lines)
