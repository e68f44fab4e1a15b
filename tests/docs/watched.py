"""Draw docs/alerts.png and docs/watched.png: what an operator sees of an outage of the broker, for real.

    python -m tests.docs.watched

It places orders for six minutes, kills RabbitMQ in the second one and starts it again in the fifth, while the auditor
and Prometheus run beside. Then Prometheus' own library draws the queries of the dashboard, laid out as in Grafana, and
Chromium takes the pictures. It needs Debian's packages `prometheus`, which has the classic pages, and `chromium`.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.local.net import HOST, free_port
from services.local.stack import Stack
from services.shop import SERVICES
from tests.auditor import Auditor
from tests.books import wait_until_quiet
from tests.chart.test_files import dashboard
from tests.client import Api
from tests.commands import audit
from tests.docs.idl import DOCS
from tests.faults.test_outages import killed
from tests.prometheus import Prometheus

CLIENTS = 5  # each places an order a second; one has no money for it
WIDTH, COLUMNS, ROW = 1280, 24, 37  # of the dashboard's grid; width and row in pixels


def page(span_s: float) -> str:
    """Return a page that shows the panels of the dashboard over the last `span_s` seconds, for Prometheus to serve."""
    text = json.dumps(dashboard()["panels"]).replace("$namespace", ".*").replace("$__rate_interval", "20s")
    panels = json.loads(re.sub(r"{{(\w+)}}", r"[\1]", text))  # Prometheus would take the braces for its own
    values = {"panels": panels, "spanS": span_s, "column": WIDTH / COLUMNS, "row": ROW}
    return Path(__file__).with_suffix(".html").read_text().replace("VALUES", json.dumps(values).replace("{{", "{ {"))


def photograph(url: str, height: int, file: Path) -> None:
    """Take a picture of a page when it has loaded what it shows."""
    chromium = shutil.which("chromium")
    assert chromium, "sudo apt-get install chromium"
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=15000",
                f"--window-size={WIDTH},{height}",
                f"--screenshot={file}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


@contextmanager
def orders(stack: Stack) -> Iterator[None]:
    """Place orders meanwhile."""
    stop = threading.Event()

    def place(number: int) -> None:
        with Api(stack.url) as api:
            user_id = api.new_user(balance=100_000)["id"]
            while not stop.wait(1):
                api.order(user_id, 10 if number else 10**6)

    threads = [threading.Thread(target=place, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def main(before_s: float, away_s: float, after_s: float) -> None:
    """Run the outage; take a picture of the alerts before its end, and of everything a while after it; then audit."""
    with tempfile.TemporaryDirectory(prefix="nameko-hw-watched-") as name:
        folder = Path(name)
        with Stack(folder / "stack", free_port()) as stack:
            auditor = Auditor(stack, "--older-than", "600")
            targets = {one: f"{HOST}:{stack.ports[one][0]}" for one in SERVICES} | {"audit": f"{HOST}:{auditor.port}"}
            try:
                with Prometheus(folder, targets, "--web.console.templates=.") as prometheus, orders(stack):
                    time.sleep(before_s)
                    with killed(stack.rabbitmq):
                        time.sleep(away_s)
                        photograph(f"{prometheus.url}/classic/alerts", 690, DOCS / "alerts.png")
                    time.sleep(after_s)
                    (folder / "watched.html").write_text(page(before_s + away_s + after_s + 10))
                    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard()["panels"])
                    photograph(f"{prometheus.url}/consoles/watched.html", rows * ROW, DOCS / "watched.png")
                wait_until_quiet(stack)
                print(audit(stack))
            finally:
                auditor.kill()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--before", type=float, default=60, help="seconds before the outage (default: 60)")
    arguments.add_argument("--away", type=float, default=200, help="seconds of the outage (default: 200)")
    arguments.add_argument("--after", type=float, default=100, help="seconds after it (default: 100)")
    given = arguments.parse_args()
    main(given.before, given.away, given.after)
