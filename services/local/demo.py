"""The demo: embedded mode on a free port, and the scenario of `services/scenario.py` against it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import requests

from services.local import tokens
from services.local.net import HOST, free_port, wait_for
from services.local.page.settings import DISABLED
from services.local.supervisor import dies_with_parent
from services.ops.errors import CommandError
from services.scenario import Scenario
from services.shop import chosen_style

START_S = 45
STOP_S = 30


def play(folder: Path) -> int:
    """Start embedded mode in `folder`, play the scenario, stop it; return 0 only if all eight steps hold."""
    chosen_style()  # a wrong one ends the demo before it starts anything
    own = tokens.settings()
    port = free_port()
    url = f"http://{HOST}:{port}"
    server = subprocess.Popen(
        [*dies_with_parent("INT"), sys.executable, "-m", "services.ops.cli", "run", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **own, "NAMEKO_HW_FOLDER": str(folder), "LOG_LEVEL": "WARNING", DISABLED: "true"},
        start_new_session=True,
    )
    try:
        wait_for(lambda: _is_ready(server, url), START_S, "embedded mode to start")
        return Scenario(url, token=tokens.admins_token({**os.environ, **own})).play()
    except requests.RequestException as error:
        raise CommandError(str(error)) from None
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(STOP_S)


def _is_ready(server: "subprocess.Popen[bytes]", url: str) -> bool:
    if server.poll() is not None:
        raise CommandError("embedded mode did not start; the reason is above")
    try:
        return requests.get(f"{url}/health/ready", timeout=5).ok
    except requests.RequestException:
        return False
