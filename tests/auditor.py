"""The auditor of a running stack, and the metrics that it shows."""

import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from uuid import uuid4

import requests

from services.local.net import HOST, free_port
from services.local.stack import ROOT, Stack
from services.local.supervisor import dies_with_parent
from tests.faults.test_audit import changed

STOP_S = 20


def money_from_nowhere(stack: Stack) -> AbstractContextManager[None]:
    """An account whose balance no operation explains: a violation, while it is there."""
    return changed(
        stack,
        "billing",
        "insert into accounts (user_id, balance) values (:id, 1)",
        "delete from accounts where user_id = :id",
        id=str(uuid4()),
    )


class Auditor:
    """The command as the chart starts it, with other pauses."""

    def __init__(self, stack: Stack, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.log = stack.folder / "logs" / f"audit-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *dies_with_parent("KILL"),
                    sys.executable,
                    "-m",
                    "services.ops.cli",
                    "audit",
                    "--every",
                    "0.1",
                    *options,
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **stack.environment(),
                    "WEB_SERVER_ADDRESS": f"{HOST}:{self.port}",
                    **environment,
                },
            )

    def shows(self, name: str) -> float | None:
        """Return the value of a metric, None where there is none."""
        try:
            text = requests.get(f"http://{HOST}:{self.port}/metrics", timeout=5).text
        except requests.ConnectionError:
            return None
        found = re.search(rf'^nameko_hw_{name}{{service="audit"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else None

    def violations(self, count: int) -> bool:
        return self.shows("audit_violations") == count

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> list[str]:
        """Return the lines that it has printed."""
        return self.log.read_text().splitlines()

    def stop(self) -> int:
        """End it as Kubernetes does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)
