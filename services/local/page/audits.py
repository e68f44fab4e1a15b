"""The audit, run for the page, and its last verdict."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import eventlet
from sqlalchemy.exc import SQLAlchemyError

from services.ops.audit import Audit

PATIENCE_S = 5.0


class Audits:
    """Runs one audit at a time over all databases."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = dict(urls)
        self.is_running = False
        self.verdict: dict[str, Any] | None = None

    def start(self) -> None:
        """Start an audit, unless one runs."""
        if not self.is_running:
            self.is_running = True
            eventlet.spawn(self._run)

    def _run(self) -> None:
        now = datetime.now(UTC)
        try:
            report = Audit(self.urls, datetime.min.replace(tzinfo=UTC), now, PATIENCE_S).run()
            verdict, lines = ("violations" if report.violations else "clean"), list(report.lines())
        except SQLAlchemyError:
            verdict, lines = "away", ["A database does not answer; the audit needs those of all four services."]
        finally:
            self.is_running = False
        self.verdict = {"verdict": verdict, "lines": lines, "at": now.isoformat()}

    def view(self) -> dict[str, Any]:
        return {"is_running": self.is_running, **(self.verdict or {"verdict": None})}
