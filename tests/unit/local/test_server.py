"""Which processes hold a file of a server, on a machine where other processes come and go."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.local.server import holders_of

HOLD = "import sys; held = open(sys.argv[1]); print(flush=True); sys.stdin.read()"


def test_a_process_that_ends_during_the_search_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "lock"
    file.touch()
    ended: list[int] = []
    scandir = os.scandir

    def end_and_scan(path: Any) -> Any:
        if os.fspath(path) == f"/proc/{short_lived.pid}/fd":
            short_lived.kill()
            short_lived.wait()
            ended.append(short_lived.pid)
        return scandir(path)

    short_lived = subprocess.Popen(["sleep", "600"])
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        monkeypatch.setattr(os, "scandir", end_and_scan)
        assert holders_of(file) == [holder.pid]
    assert ended == [short_lived.pid]
