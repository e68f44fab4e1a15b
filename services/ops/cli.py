"""The console command `nameko-hw`. Each subcommand imports what it needs, as some patch the standard library."""

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.ops.errors import CommandError

ROOT = Path(__file__).parents[2]
DEFAULT_PORT = 8000


def main() -> None:
    """Run one subcommand; exit 1 with one line on an error that the user can mend."""
    arguments = parser().parse_args()
    os.chdir(ROOT)
    try:
        sys.exit(arguments.command(arguments) or 0)
    except (CommandError, TimeoutError) as error:
        sys.exit(f"nameko-hw: {error}")
    except PermissionError as error:
        if error.filename is None:
            raise
        from services.local.installing import not_ours

        sys.exit(f"nameko-hw: {not_ours(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="nameko-hw", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        return one

    add("demo", demo, "start embedded mode, play the eight steps of the scenario, print them, stop")
    for one in (
        add("run", run, "serve in embedded mode until Ctrl-C"),
        add("stack", stack, "serve with one process a service, RabbitMQ and PostgreSQL until Ctrl-C"),
        door_ := add("door", door, "hand requests to services by their path; `stack` runs this"),
    ):
        one.add_argument(
            "--port", type=port_number, default=os.environ.get("PORT") or DEFAULT_PORT, help="default: $PORT or 8000"
        )
    door_.add_argument("target", nargs="+", help="service=port, several of one service are replicas")
    add("shell", shell, "open `nameko shell` against the running stack")
    add("migrate", migrate, "bring the databases of the configuration to the newest version").add_argument(
        "service", nargs="*", help="default: all four"
    )
    one = add("audit", audit, "check the invariants over the data of all services; exit 1 on a violation")
    one.add_argument(
        "--since",
        type=moment,
        default=datetime.min.replace(tzinfo=UTC),
        metavar="TIME",
        help="only what was created since then (RFC 3339)",
    )
    one.add_argument("--until", type=moment, metavar="TIME", help="... and before then (default: now)")
    one.add_argument(
        "--older-than",
        type=seconds,
        default=0,
        metavar="SECONDS",
        help="leave out what is younger, for a running system (default: 0)",
    )
    one.add_argument(
        "--patience",
        type=seconds,
        default=5,
        metavar="SECONDS",
        help="how long what looks wrong may be on its way (default: 5)",
    )
    add("pending", pending, "list the orders and users that are pending, with what went wrong").add_argument(
        "--older-than", type=seconds, default=0, metavar="SECONDS", help="leave out what is younger (default: 0)"
    )
    one = add("dead-letters", dead_letters, "list, show, replay or drop the events that could not be handled")
    one.add_argument("action", choices=["list", "show", "replay", "drop"])
    one.add_argument("id", nargs="*", help="of a letter, as `list` gives it")
    one.add_argument("--all", action="store_true", help="all letters")
    add("openapi", openapi, "print the OpenAPI document of the HTTP API")
    add("asyncapi", asyncapi, "print the AsyncAPI document of what crosses the broker")
    return top


def moment(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: it should be like 2026-01-31T12:00:00Z") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def port_number(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: it should be a number up to 65535")
    return int(text)


def configuration() -> dict[str, Any]:
    """Read config.yaml as Nameko does, and check it."""
    import yaml
    from nameko.cli.main import setup_yaml_parser

    from services.kit.config import BadConfiguration, check

    setup_yaml_parser()
    config: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    try:
        check(config)
    except BadConfiguration as error:
        sys.exit(str(error))
    return config


def running_configuration() -> dict[str, Any]:
    """The configuration, with the addresses of the stack of `make stack` where one runs and none are given."""
    from services.local.server import CannotStart
    from services.local.stack import environment_of_running

    if not os.environ.get("AMQP_URI") and not os.environ.get("ORDERS_DATABASE_URL"):
        try:
            os.environ.update(environment_of_running(ROOT / ".run" / "stack"))
        except CannotStart:
            pass  # then the addresses are those of config.yaml
    return configuration()


def demo(arguments: argparse.Namespace) -> int:
    from services.local.demo import play

    return play(ROOT / ".run" / "demo")


def run(arguments: argparse.Namespace) -> None:
    import eventlet

    eventlet.monkey_patch()

    import logging.config

    from services.local.embedded import serve

    config = configuration()
    logging.config.dictConfig(config["LOGGING"])
    folder = Path(os.environ.get("NAMEKO_HW_FOLDER", ROOT / ".run" / "embedded"))
    listener = listen(arguments.port)
    serve(listener, folder, config, on_ready=lambda: welcome(listener.getsockname()[1]))


def welcome(port: int) -> None:
    """Say where the API is, with a line to try."""
    base = f"http://127.0.0.1:{port}"
    print(
        f"""
Serving on {base}
  the API, to read and to try   {base}/docs
  a first request               curl -s {base}/users -H 'Content-Type: application/json' \\
                                  -d '{{"name": "Ada", "email": "ada@example.com"}}'
Ctrl-C stops everything.
""",
        flush=True,
    )


def stack(arguments: argparse.Namespace) -> None:
    from services.local.net import free_port
    from services.local.stack import serve

    port = arguments.port or free_port()
    serve(ROOT / ".run" / "stack", port, on_ready=lambda: welcome(port))


def door(arguments: argparse.Namespace) -> None:
    import eventlet

    eventlet.monkey_patch()

    import logging.config

    from services.local.gateway import serve

    config = configuration()
    logging.config.dictConfig(config["LOGGING"])
    ports: dict[str, list[int]] = {}
    for service, _, port in (target.partition("=") for target in arguments.target):
        ports.setdefault(service, []).append(port_number(port))
    serve(
        listen(arguments.port),
        ports,
        config["REQUEST_TIMEOUT_S"],
        config["BODY_LIMIT_BYTES"],
        config["MAX_CONNECTIONS"],
    )


def listen(port: int) -> Any:
    import eventlet

    try:
        return eventlet.listen(("127.0.0.1", port), backlog=1024, reuse_port=False)
    except OSError as error:
        sys.exit(f"nameko-hw: port {port}: {error.strerror}. Choose another with PORT=...")


def shell(arguments: argparse.Namespace) -> None:
    from services.local.stack import NAMEKO, environment_of_running

    environment = environment_of_running(ROOT / ".run" / "stack")
    os.execve(NAMEKO, [NAMEKO, "shell", "--config", "config.yaml"], {**os.environ, **environment})


def migrate(arguments: argparse.Namespace) -> None:
    from services.kit.db.connecting import with_driver
    from services.ops.migrate import upgrade
    from services.shop import SERVICES

    config = configuration()
    for service in arguments.service or SERVICES:
        if service not in SERVICES:
            sys.exit(f"nameko-hw: there is no service {service!r}: it should be one of {', '.join(SERVICES)}")
        upgrade(service, with_driver(config["DB_URIS"][f"{service}:Base"]))
        print(f"{service}: at the newest version")


def audit(arguments: argparse.Namespace) -> int:
    from sqlalchemy.exc import OperationalError

    from services.ops.audit import Audit
    from services.shop import SERVICES

    config = running_configuration()
    until = min(
        arguments.until or datetime.max.replace(tzinfo=UTC), datetime.now(UTC) - timedelta(seconds=arguments.older_than)
    )
    urls = {service: config["DB_URIS"][f"{service}:Base"] for service in SERVICES}
    try:
        report = Audit(urls, arguments.since, until, arguments.patience).run()
    except OperationalError:
        sys.exit("nameko-hw: a database does not answer; the audit needs those of all four services")
    print("\n".join(report.lines()))
    return 1 if report.violations else 0


def pending(arguments: argparse.Namespace) -> None:
    from sqlalchemy.exc import OperationalError

    from services.ops.pending import listed

    config = running_configuration()
    count = 0
    try:
        for line in listed(
            {name: config["DB_URIS"][f"{name}:Base"] for name in ("orders", "users")}, arguments.older_than
        ):
            count += 1
            print(line)
    except OperationalError:
        sys.exit("nameko-hw: a database does not answer; those of orders and users are needed")
    print(f"{count} pending")


def dead_letters(arguments: argparse.Namespace) -> None:
    from sqlalchemy.exc import OperationalError

    from services.ops.dead_letters import DeadLetters
    from services.shop import SERVICES

    action = arguments.action
    if bool(arguments.id) == (arguments.all or action == "list"):
        sys.exit(f"nameko-hw: say which letters to {action}: their ids, or --all")
    uris = running_configuration()["DB_URIS"]
    letters = DeadLetters({service: uris[f"{service}:Base"] for service in SERVICES})
    count = 0
    try:
        if missing := letters.missing(arguments.id):
            sys.exit(f"nameko-hw: there is no dead letter {', '.join(missing)}")
        take = {"list": letters.look, "show": letters.look, "replay": letters.replay, "drop": letters.drop}[action]
        for letter in take(arguments.id):
            print(letter.details() if action == "show" else letter.line())
            count += 1
    except OperationalError:
        sys.exit("nameko-hw: a database does not answer")
    done = {"list": "kept", "show": "shown", "replay": "replayed", "drop": "dropped"}
    print(f"{count} {'dead letter' if count == 1 else 'dead letters'} {done[action]}")


def openapi(arguments: argparse.Namespace) -> None:
    from services.ops.openapi import document

    print(document(), end="")


def asyncapi(arguments: argparse.Namespace) -> None:
    from services.ops.asyncapi import document

    print(document(), end="")


if __name__ == "__main__":
    main()
