"""A run of several processes says which test of how many begins, and which failed."""

import os
import re
import subprocess
import sys
from pathlib import Path

from services.local.stack import ROOT


def test_each_file_is_a_line_with_the_number_of_its_first_test_and_each_failure_one(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text("def test_one(): pass\ndef test_two(): assert 0\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "xdist",
            "-p",
            "tests.progress",
            "-n",
            "1",
            "--dist",
            "loadfile",
            str(tmp_path),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    lines = [line for line in run.stdout.splitlines() if re.match(r"\[\d", line)]
    assert lines == [
        "[1/4] test_a.py",
        "[2/4] FAILED in its call: test_a.py::test_two",
        "[3/4] test_b.py",
        "[4/4] FAILED in its call: test_b.py::test_two",
    ], run.stdout
    assert "2 failed, 2 passed" in run.stdout
