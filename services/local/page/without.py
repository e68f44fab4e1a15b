"""The lesson "take a safeguard out": a stack of its own without one safeguard, something that provokes it, an audit.

    python -m services.local.page.without inbox FOLDER

Each line of the output is a JSON object: what is done, and in the end what the audit says. The folder is removed.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from sqlalchemy import create_engine, text

from services.local.net import free_port, wait_for
from services.local.rabbitmq import RabbitMQ
from services.local.sabotage import SCHEMA
from services.local.stack import Stack, database_variable
from services.ops.audit import Audit, Report
from services.shop import SERVICES, STYLES, chosen_style

SEEN_S = 20
ANSWER_S = 15
PATIENCE_S = 2.0
MONEY = 100

#: Recovery and leases of a second or two, so that the lesson takes a minute.
QUICK = {
    "RPC_TIMEOUT_S": "0.8",
    "REQUEST_TIMEOUT_S": "2",
    "DB_TIMEOUT_S": "1",
    "PUBLISH_TIMEOUT_S": "1",
    "OUTBOX_LEASE_S": "1.5",
    "OUTBOX_INTERVAL_S": "0.3",
    "RECOVERY_AFTER_S": "2.1",
    "RECOVERY_INTERVAL_S": "0.3",
    "DRAIN_TIMEOUT_S": "4",
    "INBOX_LEASE_S": "1.5",
    "LOG_LEVEL": "WARNING",
    "OTEL_SDK_DISABLED": "true",
    "AUTH": "off",  # whose requests these are is not the lesson
}


def say(step: str, **more: Any) -> None:
    print(json.dumps({"step": step, **more}), flush=True)


class Client:
    """Clients of the stack, as the lesson needs them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.user_id = ""

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> requests.Response:
        headers = {"Idempotency-Key": key or str(uuid4())}
        return requests.post(self.stack.url + path, json=body, headers=headers, timeout=ANSWER_S)

    def get(self, path: str) -> Any:
        return requests.get(self.stack.url + path, timeout=ANSWER_S).json()

    def begin(self) -> None:
        """Create a user with money."""
        self.user_id = self.post("/users", {"name": "Ada", "email": f"ada-{uuid4()}@example.com"}).json()["id"]
        wait_for(lambda: self.get(f"/users/{self.user_id}")["status"] == "active", SEEN_S, "an active user")
        self.post(f"/billing/accounts/{self.user_id}/deposit", {"amount": MONEY})

    def order(self, key: str | None = None) -> requests.Response:
        return self.post("/orders", {"user_id": self.user_id, "price": 1}, key)

    def letters(self) -> list[Any]:
        return list(self.get(f"/notifications?user_id={self.user_id}")["items"])


def die_between_event_and_status(client: Client) -> None:
    say("Place an order, and let orders die between writing the event and writing the status.")
    between = client.stack.folder / "between"
    between.touch()
    client.order()
    wait_for(lambda: not between.exists(), SEEN_S, "the death")
    wait_for(client.stack.is_ready, SEEN_S, "orders to be back")


def send_each_order_eight_times(client: Client) -> None:
    say("Send five orders at once, each eight times under one key.")
    keys = [str(uuid4()) for _ in range(5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client.order, [key for key in keys for _ in range(8)]))


def deliver_again(client: Client) -> None:
    say("Place an order, wait for its letter, and publish its event again.")
    client.order()
    wait_for(client.letters, SEEN_S, "the letter")
    again = """update outbox set published_at = null, claimed_until = '-infinity'
               where published_at is not null and type in ('order_paid', 'payment_accepted') returning 1"""
    wait_for(lambda: execute(client.stack, "orders", again), SEEN_S, "the event to be marked as published")


PROVOKE: dict[str, Callable[[Client], None]] = {
    "inbox": deliver_again,
    "outbox": die_between_event_and_status,
    "operation": send_each_order_eight_times,
    "pending": send_each_order_eight_times,
}


def execute(stack: Stack, service: str, statement: str) -> int:
    """Execute a statement in the database of a service; return how many rows it is about."""
    engine = create_engine(stack.database_url(service))
    try:
        with engine.begin() as connection:
            return connection.execute(text(statement)).rowcount
    finally:
        engine.dispose()


def audit(stack: Stack) -> Report:
    urls = {service: stack.database_url(service) for service in SERVICES}
    return Audit(urls, datetime.min.replace(tzinfo=UTC), datetime.now(UTC), PATIENCE_S).run()


def violated(stack: Stack) -> Report | None:
    report = audit(stack)
    return report if report.violations else None


def run(what: str, folder: Path) -> None:
    """Play the lesson once."""
    # the services in the environment are those of another stack
    for name in ("AMQP_URI", *map(database_variable, SERVICES)):
        os.environ.pop(name, None)
    # the events of the style `events` are billing's, and these safeguards are of the other two
    style = chosen_style() if chosen_style().name != "events" else STYLES["broker"]
    if style.has_broker and RabbitMQ.find() is None:
        style = STYLES["http"]  # a lesson installs nothing
    shutil.rmtree(folder, ignore_errors=True)
    settings = QUICK | {"SABOTAGE": what, "SABOTAGE_FOLDER": str(folder)}
    nameko = (sys.executable, "-m", "services.local.sabotage")
    say("Start a second stack, with databases of its own and without the safeguard.")
    try:
        stack = Stack(folder, free_port(), settings, say=lambda _: None, nameko=nameko, style=style)
        with stack:
            for service, statement in SCHEMA[what]:
                execute(stack, service, statement)
            client = Client(stack)
            client.begin()
            say("Run the audit before anything happens.", verdict="\n".join(audit(stack).lines()))
            PROVOKE[what](client)
            say("Run the audit.")
            report = wait_for(lambda: violated(stack), SEEN_S, "the audit to find it")
            assert report is not None
            say(
                "Stop the second stack.",
                verdict="\n".join(report.lines()),
                violations=[str(one) for one in report.violations],
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]).absolute())
