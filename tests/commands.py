"""The console command, as an operator of a running stack uses it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil

from services.local.stack import GATEWAY, ROOT, Stack


def nameko_hw(stack: Stack, *arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.ops.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **stack.environment()},
    )


def audit(stack: Stack, *options: str) -> str:
    """Return the report of an audit, which must find no violation."""
    report = nameko_hw(stack, "audit", *options)
    assert report.returncode == 0, report.stdout + report.stderr
    return report.stdout


def replicas(stack: Stack) -> Iterator[tuple[str, psutil.Process]]:
    """Return every process of every service that runs now, with its name in the supervisor."""
    for name in stack.supervisor.names():
        pid = stack.supervisor.pid(name)
        if pid is not None and name != GATEWAY:
            yield name, psutil.Process(pid)
