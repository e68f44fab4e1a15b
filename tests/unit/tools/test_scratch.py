"""The scratch folder of a run of the tests: what is kept of it, and what of runs before."""

import fcntl
import tempfile
from pathlib import Path

import pytest

from tests import scratch
from tests.scratch import KEPT_BYTES, PREFIX, Run, remove_leftovers


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of our own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def folder_of_a_run(temporary: Path, name: str) -> Path:
    folder = temporary / f"{PREFIX}{name}"
    (folder / "t").mkdir(parents=True)
    (folder / "lock").touch()
    return folder


def test_the_folder_of_a_run_that_was_cut_off_is_removed_by_the_next_and_no_other(temporary):
    cut_off, running = folder_of_a_run(temporary, "one"), folder_of_a_run(temporary, "two")
    (temporary / "theirs").mkdir()
    with (running / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers()
    assert not cut_off.exists()
    assert running.exists() and (temporary / "theirs").exists()


def test_a_run_ends_with_its_folder_and_keeps_the_end_of_each_log(temporary, monkeypatch):
    monkeypatch.setattr(scratch, "KEPT_LOGS", temporary / "kept")
    monkeypatch.setenv(scratch.MARK, "")
    run = Run()
    (run.folder / "t").mkdir()
    (run.folder / "t" / "one.log").write_bytes(b"begin" + b"x" * KEPT_BYTES + b"end")
    (run.folder / "t" / "data").write_bytes(b"not a log")
    assert run.keep_logs() == 1
    remove_leftovers()  # its reaper holds its lock
    assert run.folder.exists()
    run.end()
    assert not run.folder.exists()
    kept = [path for path in (temporary / "kept").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["one.log"]
    assert kept[0].stat().st_size == KEPT_BYTES and kept[0].read_bytes().endswith(b"xend")
