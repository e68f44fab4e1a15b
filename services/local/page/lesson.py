"""The run of the lesson "take a safeguard out", which starts a stack of its own, for the page."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import eventlet
from eventlet.green import subprocess

from services.kit.web.problems import Problem
from services.local.supervisor import dies_with_parent
from services.shop import Style

SAFEGUARDS = ("inbox", "outbox", "operation", "pending")
LONGEST_S = 180.0


class Without:
    """Runs `without.py` in a process of its own, once at a time, and remembers what it says."""

    def __init__(self, folder: Path, style: Style) -> None:
        self.folder = folder
        self.style = style
        self.what: str | None = None
        self.steps: list[dict[str, Any]] = []
        self.is_running = False

    def start(self, what: str) -> None:
        """Start the lesson about a safeguard, unless one runs. Raises Problem for one that there is not."""
        if what not in SAFEGUARDS:
            raise Problem(404, "no-such-safeguard", "There is no such safeguard.")
        if not self.is_running:
            self.is_running = True
            self.what, self.steps = what, []
            eventlet.spawn(self._run, what)

    def _run(self, what: str) -> None:
        process = None
        try:
            process = subprocess.Popen(
                [*dies_with_parent("INT"), sys.executable, "-m", "services.local.page.without", what, str(self.folder)],
                env={**os.environ, "STYLE": self.style.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            with eventlet.Timeout(LONGEST_S, TimeoutError("it took too long")):
                errors = eventlet.spawn(process.stderr.read)
                for line in process.stdout:
                    self.steps.append(json.loads(line))
                process.wait()
            if process.returncode:
                last = errors.wait().decode(errors="replace").strip().splitlines()[-1:]
                self.steps.append({"step": f"It did not work: {''.join(last)[:300]}", "failed": True})
        except (OSError, ValueError, TimeoutError) as error:
            self.steps.append({"step": f"It did not work: {error}", "failed": True})
        finally:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)
            self.is_running = False

    def view(self) -> dict[str, Any]:
        return {"is_running": self.is_running, "what": self.what, "steps": self.steps}
