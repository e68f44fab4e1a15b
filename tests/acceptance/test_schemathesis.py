"""schemathesis makes requests from our own OpenAPI document, good and bad ones, and judges the answers."""

import subprocess
import sys
from pathlib import Path

from services.local.stack import Stack

EXAMPLES = 25
RUN_S = 240


def test_no_request_gets_an_undocumented_answer(stack: Stack, tmp_path: Path):
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{stack.url}/openapi.json",
            "--max-examples",
            str(EXAMPLES),
            "--seed",
            "1",
            "--no-color",
            "--warnings",
            "off",
            # no schema can say that a key was used, a cursor is not ours, or that 1.0 is no way to write an amount
            "--exclude-checks",
            "positive_data_acceptance",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "Tested: 15" in run.stdout
