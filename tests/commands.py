"""The console command, as an operator of a running stack uses it."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout

import psutil
import pytest

from services.local.stack import GATEWAY, INTERNAL, ROOT, Stack
from services.ops import cli


def nameko_hw(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, as starting another one takes a second; some tests start one all the same."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["nameko-hw", *arguments])
        patch.chdir(ROOT)
        for name, value in stack.environment().items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    if isinstance(code, str):  # then Python prints it, and exits with 1
        errors.write(f"{code}\n")
    status = code if isinstance(code, int) else int(code is not None)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def nameko_hw_process(stack: Stack, *arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run the command as an operator does."""
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
        if pid is not None and name not in (GATEWAY, INTERNAL):
            try:
                process = psutil.Process(pid)
            except psutil.NoSuchProcess:  # it has ended meanwhile
                continue
            yield name, process
