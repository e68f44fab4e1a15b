"""The formats of the log: lines for people, or a JSON object a line for programs (LOG_FORMAT=line or json).

A line that is written while a request is answered says the id of the request. With tracing on, a line that is written
while something is under way says the id of its trace, and what was noted of it.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from services.kit import tracing
from services.kit.web.request_id import request_id

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FORMATS = ("line", "json")


class LineFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        if context := log_context():
            record.message = f"{record.getMessage()} [{' '.join(f'{key}={value}' for key, value in context.items())}]"
            record = logging.makeLogRecord({**record.__dict__, "msg": record.message, "args": ()})
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """An object a line: time (ISO 8601, UTC), level, logger, message, and error with its traceback, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **log_context(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def log_context() -> dict[str, str]:
    """Return what a line says of what is under way: the ids of the request and of the trace, and what was noted."""
    ids = {"request_id": request_id(), "trace_id": tracing.trace_id()}
    return {name: id_ for name, id_ in ids.items() if id_} | dict(tracing.noted())


def formatter(format_: str) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT; end with one line if there is none of this name."""
    if format_ not in FORMATS:
        sys.exit(f"config.yaml: LOGGING: LOG_FORMAT should be one of {', '.join(FORMATS)}")
    return JsonFormatter() if format_ == "json" else LineFormatter(LINE)
