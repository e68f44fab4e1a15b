"""The arguments of the commands that read or change the databases; `on_databases.py` has what they do."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from uuid import UUID

from services.ops.arguments import moment, seconds

Add = Callable[[str, Callable[[argparse.Namespace], int | None], str], argparse.ArgumentParser]


def add_database_commands(add: Add) -> None:
    """Add the commands; `add` takes the name of one, what it does, and its description."""
    one = add("migrate", on_databases("migrate"), "bring the databases of the configuration to the newest version")
    one.add_argument("service", nargs="*", help="default: all four")
    one = add(
        "audit", on_databases("audit"), "check the invariants over the data of all services; exit 1 on a violation"
    )
    add_window(one)
    one.add_argument(
        "--every",
        type=seconds,
        metavar="SECONDS",
        help="audit again and again, with such pauses, and serve the verdict at /metrics of WEB_SERVER_ADDRESS",
    )
    one = add("reconcile", on_databases("reconcile"), "mend what an audit finds, as far as that needs no judgement")
    add_window(one)
    one.add_argument("--dry-run", action="store_true", help="change nothing, and say what would be done")
    one = add("republish", on_databases("republish"), "have events published again that a receiver has forgotten")
    one.add_argument("--since", type=moment, required=True, metavar="TIME", help="created since then (RFC 3339)")
    one.add_argument("--until", type=moment, metavar="TIME", help="... and before then (default: now)")
    one.add_argument("--type", metavar="TYPE", help="only events of this type, such as order_paid")
    one = add("settle", on_databases("settle"), "have stuck orders settled at once, and say what came of it")
    one.add_argument("order_id", nargs="+", type=UUID, help="as `pending` lists it")
    one.add_argument(
        "--wait", type=seconds, default=30, metavar="SECONDS", help="how long to wait for the end (default: 30)"
    )
    one = add("pending", on_databases("pending"), "list the orders and users that are pending, with what went wrong")
    one.add_argument(
        "--older-than", type=seconds, default=0, metavar="SECONDS", help="leave out what is younger (default: 0)"
    )
    one = add("outbox", on_databases("outbox"), "list the events that are not published yet")
    one.add_argument("action", choices=["list"])
    one.add_argument("--all", action="store_true", help="also those that are published")
    one = add(
        "dead-letters", on_databases("dead_letters"), "list, show, replay or drop the events that could not be handled"
    )
    one.add_argument("action", choices=["list", "show", "replay", "drop"])
    one.add_argument("id", nargs="*", help="of a dead letter, as `list` prints it")
    one.add_argument("--all", action="store_true", help="all dead letters")


def add_window(audit: argparse.ArgumentParser) -> None:
    """Add the arguments that choose what is audited, and how long the audit waits for it."""
    audit.add_argument(
        "--since",
        type=moment,
        default=datetime.min.replace(tzinfo=UTC),
        metavar="TIME",
        help="only what was created since then (RFC 3339)",
    )
    audit.add_argument("--until", type=moment, metavar="TIME", help="... and before then (default: now)")
    audit.add_argument("--within", type=seconds, metavar="SECONDS", help="only what was created in the last SECONDS")
    audit.add_argument(
        "--older-than",
        type=seconds,
        default=0,
        metavar="SECONDS",
        help="leave out what is younger, for a running system (default: 0)",
    )
    audit.add_argument(
        "--patience",
        type=seconds,
        default=5,
        metavar="SECONDS",
        help="how long what looks wrong may be on its way (default: 5)",
    )


def on_databases(name: str) -> Callable[[argparse.Namespace], int | None]:
    """Return the command called `name` in `services/ops/on_databases.py`, which is imported when the command runs."""

    def command(arguments: argparse.Namespace) -> int | None:
        code: int | None = getattr(import_module("services.ops.on_databases"), name)(arguments)
        return code

    return command
