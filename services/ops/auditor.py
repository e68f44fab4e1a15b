"""The auditor: audits again and again, and serves the last verdict at `/metrics`, for Prometheus."""

import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from prometheus_client import start_http_server
from sqlalchemy.exc import SQLAlchemyError

from services.kit.metrics import Metrics, metrics_of
from services.ops.audit import Report
from services.ops.errors import CommandError
from services.shop import SHOP

NAME = "audit"  # in the label `service`


def serve(audit: Callable[[], Report], every_s: float, address: str) -> NoReturn:
    """Audit until SIGTERM, with pauses of `every_s` seconds, and serve the metrics at `address`, a `host:port`."""
    metrics = metrics_of(SHOP.name)
    metrics.audit_finished.labels(NAME).set_to_current_time()  # so that its age grows if no audit ever ends
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), host)
    except OSError as error:
        raise CommandError(f"WEB_SERVER_ADDRESS: {address}: {error.strerror}") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container ignores it otherwise
    while True:
        look(audit, metrics)
        time.sleep(every_s)


def look(audit: Callable[[], Report], metrics: Metrics) -> None:
    """Audit once, print the report and record the verdict.

    When a database does not answer, or is not migrated yet, there is no verdict: the last one stays, and grows old.
    """
    try:
        report = audit()
    except SQLAlchemyError as error:
        print(f"no verdict: {str(error).splitlines()[0]}", flush=True)
        return
    metrics.audit_violations.labels(NAME).set(len(report.violations))
    metrics.audit_finished.labels(NAME).set_to_current_time()
    print("\n".join(report.lines()), flush=True)
