"""What Prometheus sees. All names begin with `nameko_hw_`; times are in seconds."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Histogram(
    "nameko_hw_http_request_seconds",
    "HTTP requests, by answer",
    ["service", "method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RPCS = Histogram(
    "nameko_hw_rpc_seconds",
    "RPCs as their caller sees them, by outcome",
    ["service", "method", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BROKER_UP = Gauge("nameko_hw_broker_up", "1 while the broker answers, else 0", ["service"])
EVENTS_PUBLISHED = Counter("nameko_hw_events_published_total", "Events that the broker has confirmed", ["service"])
EVENTS_HANDLED = Counter(
    "nameko_hw_events_handled_total",
    "Attempts at events: handled, duplicate, retried (to be) or dead",
    ["service", "event", "outcome"],
)
OUTBOX_WAITING = Gauge("nameko_hw_outbox_waiting", "Events that are committed but not yet published", ["service"])
OUTBOX_LAG = Gauge("nameko_hw_outbox_lag_seconds", "Age of the oldest event that is not yet published", ["service"])
INBOX_WAITING = Gauge("nameko_hw_inbox_waiting", "Events that failed and are to be tried again", ["service"])
DEAD_LETTERS = Gauge("nameko_hw_dead_letters", "Events that could not be handled, and wait for a person", ["service"])
BROKER_REFUSALS = Counter(
    "nameko_hw_broker_refusals_total",
    "Messages or logins that the broker refused for good, by reason",
    ["service", "reason"],
)
PENDING = Gauge("nameko_hw_pending", "Orders or users whose outcome is not known yet", ["service"])
STUCK = Gauge(
    "nameko_hw_stuck", "Orders or users that have been pending for longer than STUCK_AFTER_S: an alarm", ["service"]
)
