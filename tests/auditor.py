"""The auditor of a running stack, and the metrics that it shows."""

import os
import re
import signal
import subprocess
import sys

import requests

from services.local.net import HOST, free_port
from services.local.stack import ROOT, Stack
from services.local.supervisor import dies_with_parent

STOP_S = 20


class Auditor:
    """The command as the chart starts it, with other pauses."""

    def __init__(self, stack: Stack, **environment: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [*dies_with_parent("KILL"), sys.executable, "-m", "services.ops.cli", "audit", "--every", "0.1"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
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
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """End it as Kubernetes does; return its exit code and what it has printed."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=STOP_S)
        return self.process.returncode, output
