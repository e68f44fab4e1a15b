"""What Prometheus sees. All names begin with the name of the product; times are in seconds."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
RPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The metrics of a process, as `container.metrics`; each has the label `service`."""

    def __init__(self, prefix: str) -> None:
        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{prefix}_{name}", text, ["service", *labels], buckets=buckets)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"{prefix}_{name}", text, ["service"])

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{prefix}_{name}", text, ["service", *labels])

        self.requests = histogram(
            "http_request_seconds", "HTTP requests, by answer", ["method", "route", "status"], REQUEST_BUCKETS
        )
        self.rpcs = histogram(
            "rpc_seconds",
            "Calls to other services as their caller sees them, by outcome",
            ["method", "outcome"],
            RPC_BUCKETS,
        )
        self.database_up = gauge("database_up", "1 if the database takes writes, else 0")
        self.broker_up = gauge("broker_up", "1 while the broker answers, else 0")
        self.broker_refusals = counter(
            "broker_refusals_total", "Messages or logins that the broker refused for good, by reason", "reason"
        )
        self.events_published = counter("events_published_total", "Events that the broker has confirmed")
        self.events_handled = counter(
            "events_handled_total",
            "Attempts at events: handled, duplicate, retried (to be) or dead",
            "event",
            "outcome",
        )
        self.outbox_waiting = gauge("outbox_waiting", "Events that are committed but not yet published")
        self.outbox_lag = gauge("outbox_lag_seconds", "Age of the oldest event that is not yet published")
        self.inbox_waiting = gauge("inbox_waiting", "Events that failed and are to be tried again")
        self.dead_letters = gauge("dead_letters", "Events that could not be handled, and wait for a person")
        self.pending = gauge("pending", "Rows that are pending")
        self.stuck = gauge("stuck", "Rows that have been pending for longer than STUCK_AFTER_S: an alarm")
        self.audit_violations = gauge("audit_violations", "What the last audit found that breaks an invariant")
        self.audit_finished = gauge(
            "audit_finished_timestamp_seconds", "When the last audit ended; at first, when the auditor started"
        )


@cache
def metrics_of(product: str) -> Metrics:
    """Return the metrics of a product, which a process registers once."""
    return Metrics(product.replace("-", "_"))
