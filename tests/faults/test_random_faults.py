"""A short run of `make faults`."""

from pathlib import Path

from tests.faults.chaos import run


def test_random_faults_under_load_lose_and_double_nothing(tmp_path: Path):
    lines: list[str] = []
    assert run(tmp_path, duration_s=15, seed=1, say=lines.append) == 0, "\n".join(lines)
    assert any("clean: no violations" in line for line in lines)
