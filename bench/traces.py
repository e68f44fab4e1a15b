"""What traces cost: without a collector, with one request in a hundred sampled, and with all."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.contenders import Ours, Servers, running
from bench.load import in_turns
from services.local.net import HOST, free_port, port_is_free, wait_for

OFF, SOME, ALL = "traces off", "1% sampled", "all sampled"


class Sink(BaseHTTPRequestHandler):
    """A collector that takes spans and throws them away."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def collector() -> Iterator[str]:
    """Run a Sink in a process of its own, whose work is not counted; yield its endpoint."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.traces", str(port)])
    try:
        wait_for(lambda: not port_is_free(port), 20, "the collector")
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def measure(folder: Path, clients: Iterable[int], pairs: int, seconds: float) -> dict[str, Any]:
    """Load the three in turns, each with servers of its own."""
    with (
        collector() as endpoint,
        Servers(folder / "off") as first,
        Servers(folder / "some") as second,
        Servers(folder / "all") as third,
    ):
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        sampled = on | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        contenders = [Ours(first, OFF), Ours(second, SOME, settings=sampled), Ours(third, ALL, settings=on)]
        with running(*contenders) as users:
            return {"runs": [vars(run) for run in in_turns(contenders, users, clients, pairs, seconds)]}


if __name__ == "__main__":
    ThreadingHTTPServer((HOST, int(sys.argv[1])), Sink).serve_forever()
