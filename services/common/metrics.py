"""What Prometheus sees. All names begin with `nameko_hw_`; times are in seconds."""
from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Histogram(
    "nameko_hw_http_request_seconds", "HTTP requests, by answer", ["service", "method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RPCS = Histogram(
    "nameko_hw_rpc_seconds", "RPCs as their caller sees them, by outcome", ["service", "method", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
EVENTS_PUBLISHED = Counter(
    "nameko_hw_events_published_total", "Events that the broker has confirmed", ["service"])
EVENTS_HANDLED = Counter(
    "nameko_hw_events_handled_total", "Events from the broker: handled, duplicate, waited, retried or dead",
    ["service", "event", "outcome"])
OUTBOX_WAITING = Gauge(
    "nameko_hw_outbox_waiting", "Events that are committed but not yet published", ["service"])
OUTBOX_LAG = Gauge(
    "nameko_hw_outbox_lag_seconds", "Age of the oldest event that is not yet published", ["service"])
BROKER_REFUSALS = Counter(
    "nameko_hw_broker_refusals_total", "Messages or logins that the broker refused for good, by reason",
    ["service", "reason"])
PENDING = Gauge(
    "nameko_hw_pending", "Orders or users whose outcome is not known yet", ["service"])
