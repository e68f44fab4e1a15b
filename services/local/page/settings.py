"""What the processes of a local mode are told of the page: by environment variables."""

import os
import secrets
from collections.abc import Mapping

from services.local.net import HOST

TOKEN = "PAGE_TOKEN"
CONTROL = "PAGE_CONTROL"  # the socket of the stack

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
DISABLED = "OTEL_SDK_DISABLED"
EXPORT_EVERY_MS = "200"  # so that the page shows what happens while it happens; OpenTelemetry's own default is 5000


def new_token() -> str:
    return secrets.token_urlsafe(16)


def collector(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where the environment wants the traces sent, or None if it does not say."""
    return environ.get(TRACES_ENDPOINT) or environ.get(ENDPOINT) or None


def traced_to(port: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables by which services send their traces to the page on `port`.

    There are none if the environment names another collector, or does without traces.
    """
    if collector(environ) or environ.get(DISABLED, "").lower() == "true":
        return {}
    without_proxy = environ.get("no_proxy") or environ.get("NO_PROXY")
    return {
        ENDPOINT: f"http://{HOST}:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": environ.get("OTEL_BSP_SCHEDULE_DELAY", EXPORT_EVERY_MS),
        "no_proxy": f"{without_proxy},{HOST}" if without_proxy else HOST,
    }


def address(port: int, token: str) -> str:
    """Return the URL of the page. What follows the # is not sent to any server, and so stands in no log."""
    return f"http://{HOST}:{port}/#token={token}"
