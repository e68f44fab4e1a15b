"""The version that was released before this one, as the history of the repository has it."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from services.local.stack import ROOT

VERSION = "0.1.0"
COMMIT = "8068b62759e8a1dbf92179aa64faba357bc4a3ad"  # the last commit that calls itself so


def unpack(folder: Path) -> Path:
    """Return `folder` with the files of that version in it; skip the test where the history is not there."""
    try:
        archive = subprocess.run(["git", "-C", ROOT, "archive", COMMIT], capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"{VERSION} is taken from the history of the repository, and there is no git")
    if archive.returncode != 0:
        pytest.skip(f"{VERSION} is not in the history here: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
