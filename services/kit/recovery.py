"""Recovery: what a crash or an outage left pending is finished without being asked for again.

Any number of replicas may recover at once: each takes rows under a lease, by moving their `retry_at`, and works outside
the transaction. A death leaves the rows to the next one whose turn comes when the lease is over.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from services.kit import metrics
from services.kit.amqp.rpc import RpcRefused
from services.kit.web.problems import OUTCOME_UNKNOWN, Unavailable

log = logging.getLogger(__name__)

TROUBLE_LENGTH = 200
_reported: dict[str, int] = {}  # how many were stuck when it was last logged


class NotYet(Unavailable):
    """It is known that nothing was done, and nobody's fault: the row waits for its next turn."""


def recover(
    config: dict[str, Any],
    claim: Callable[[], Sequence[Any]],
    settle: Callable[[Sequence[Any]], Sequence[Any]],
    note: Callable[[dict[UUID, str]], None],
) -> None:
    """Claim rows and settle them as long as some are due, for RECOVERY_INTERVAL_S at a time.

    `settle` gives a result or an exception for each row. An exception that is no outage is the row's own trouble: it is
    noted with the row, which waits longer each time, and harms no other. In an outage there is no point in going on.
    """
    until = time.monotonic() + config["RECOVERY_INTERVAL_S"]
    while rows := claim():
        results = settle(rows)
        troubles = {
            row.id: f"{type(result).__name__}: {result}"[:TROUBLE_LENGTH]
            for row, result in zip(rows, results, strict=True)
            if is_trouble(result)
        }
        if troubles:
            log.error("%d of %d could not be settled; %s", len(troubles), len(rows), next(iter(troubles.values())))
            note(troubles)
        if len(rows) < config["RECOVERY_BATCH"] or any(map(is_outage, results)) or time.monotonic() > until:
            return


def is_outage(result: Any) -> bool:
    """Whether a result is an unknown outcome, which may be that of every other row as well."""
    return isinstance(result, OUTCOME_UNKNOWN) and not isinstance(result, NotYet | RpcRefused)


def is_trouble(result: Any) -> bool:
    """Whether a result is an error of this row that somebody should look at."""
    return isinstance(result, Exception) and not isinstance(result, NotYet) and not is_outage(result)


def report(service: str, pending: int, stuck: int, stuck_after_s: float) -> None:
    """Show how many rows are pending. What has been so for longer than `stuck_after_s` is an alarm."""
    metrics.PENDING.labels(service).set(pending)
    metrics.STUCK.labels(service).set(stuck)
    if stuck != _reported.get(service, 0):
        log.error("%s: %d pending for more than %g s; `nameko-hw pending` shows them", service, stuck, stuck_after_s)
    _reported[service] = stuck
