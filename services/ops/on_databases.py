"""The commands that read or change the databases of all services, wherever these run."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import OperationalError

from services.kit.db.connecting import why_away, with_driver
from services.ops import auditor
from services.ops import outbox as outboxes
from services.ops import pending as pending_rows
from services.ops import republish as republishing
from services.ops import settle as settling
from services.ops.audit import Audit, Report
from services.ops.configuration import configuration, database_urls
from services.ops.dead_letters import DeadLetters
from services.ops.errors import CommandError
from services.ops.migrate import upgrade
from services.ops.reconcile import Reconciliation
from services.shop import SERVICES, chosen_style


def migrate(arguments: argparse.Namespace) -> None:
    """Bring databases to the newest version: those of the configuration, never those of a stack that runs."""
    config = configuration()
    style = chosen_style()
    for service in arguments.service or SERVICES:
        if service not in SERVICES:
            raise CommandError(f"there is no service {service!r}: it should be one of {', '.join(SERVICES)}")
        again = upgrade(service, with_driver(config["DB_URIS"][f"{service}:Base"]), style)
        print(f"{service}: at the newest version")
        if again:
            print(f"{service}: the style is {style.name} now; {again} events are published again")


def audit(arguments: argparse.Namespace) -> int:
    """Print the report of an audit; return 1 if it found a violation. With `--every`, do so until SIGTERM."""
    urls = database_urls()

    def once() -> Report:
        return Audit(urls, *_window(arguments), arguments.patience).run()

    _refuse_gaps(arguments, arguments.every or 0)
    if arguments.every is not None:
        auditor.serve(once, arguments.every, configuration()["WEB_SERVER_ADDRESS"])
    with _answering("; the audit needs those of all four services"):
        report = once()
    print("\n".join(report.lines()))
    return 1 if report.violations else 0


def republish(arguments: argparse.Namespace) -> None:
    """Have the events of a window published again, and print how many these are."""
    until = arguments.until or datetime.now(UTC)
    with _answering("; those with an outbox are needed"):
        for service, count, oldest in republishing.window(database_urls(), arguments.since, until, arguments.type):
            held = f"; its outbox holds events from {oldest:%Y-%m-%dT%H:%M:%SZ} on" if oldest else ""
            print(f"{service}: {count} {'event is' if count == 1 else 'events are'} published again{held}")


def settle(arguments: argparse.Namespace) -> int:
    """Have orders settled at once, and print what came of each; return 1 if one has not ended."""
    with _answering("; that of orders is needed"):
        results = [settling.settle(database_urls()["orders"], id_, arguments.wait) for id_ in arguments.order_id]
    print("\n".join(line for _, line in results))
    return 0 if all(has_ended for has_ended, _ in results) else 1


def reconcile(arguments: argparse.Namespace) -> int:
    """Mend what an audit finds, print each line, and return 1 if something is left to a person."""
    urls = database_urls()
    _refuse_gaps(arguments)
    with _answering("; all four are needed"):
        report = Audit(urls, *_window(arguments), arguments.patience).run()
        lines = []
        for line in Reconciliation(urls, arguments.dry_run).run(report.violations):
            print(line)
            lines.append(line)
    left = sum(not line.is_mended for line in lines)
    would = "would be " if arguments.dry_run else ""
    print(f"{len(lines) - left} {would}mended, {left} left to a person; audit again when recovery has had its turn")
    return 1 if left else 0


def pending(arguments: argparse.Namespace) -> None:
    """Print what is pending, and how many rows that is."""
    with _answering("; those of orders and users are needed"):
        count = _print_each(pending_rows.listed(database_urls(), arguments.older_than))
    print(f"{count} pending")


def outbox(arguments: argparse.Namespace) -> None:
    """Print the events that wait in the outboxes, and how many they are; all events with `--all`."""
    waiting = 0
    with _answering(""):
        for event in outboxes.listed(database_urls(), arguments.all):
            waiting += event.is_waiting
            print(event.line())
    print(f"{waiting} {'event waits' if waiting == 1 else 'events wait'}")


def dead_letters(arguments: argparse.Namespace) -> None:
    """Print, replay or drop the dead letters with the ids in the arguments, or all."""
    action = arguments.action
    if bool(arguments.id) == (arguments.all or action == "list"):
        raise CommandError(f"say which dead letters to {action}: their ids, or --all")
    kept = DeadLetters(database_urls())
    with _answering(""):
        if missing := kept.missing(arguments.id):
            raise CommandError(f"there is no dead letter {', '.join(missing)}")
        take = {"list": kept.look, "show": kept.look, "replay": kept.replay, "drop": kept.drop}[action]
        found = take(arguments.id)
        count = _print_each(one.details() if action == "show" else one.line() for one in found)
    done = {"list": "kept", "show": "shown", "replay": "replayed", "drop": "dropped"}
    print(f"{count} {'dead letter' if count == 1 else 'dead letters'} {done[action]}")


def _print_each(lines: Iterator[str]) -> int:
    """Print each line as it comes; return how many there were."""
    count = 0
    for line in lines:
        print(line)
        count += 1
    return count


def _window(arguments: argparse.Namespace) -> tuple[datetime, datetime]:
    """Return from when on, and until when, what is audited was created."""
    now = datetime.now(UTC)
    latest = now - timedelta(seconds=arguments.older_than)
    since = (
        arguments.since if arguments.within is None else max(arguments.since, now - timedelta(seconds=arguments.within))
    )
    return since, min(arguments.until or latest, latest)


def _refuse_gaps(arguments: argparse.Namespace, every_s: float = 0) -> None:
    """Refuse a window in which nothing lies, or so short that audits with pauses of `every_s` leave something out."""
    least = arguments.older_than + 2 * every_s
    if arguments.within is not None and arguments.within <= least:
        raise CommandError(f"--within: should be above {least:g}, which is --older-than and twice --every")


@contextmanager
def _answering(needed: str) -> Iterator[None]:
    """Turn the silence of a database into one line; `needed` names the databases that the command needs."""
    try:
        yield
    except OperationalError as error:
        raise CommandError(f"a database does not answer{needed} ({why_away(error)})") from None
