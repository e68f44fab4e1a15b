"""The console command `nameko-hw`.

Each subcommand imports what it needs besides the standard library, because some monkey-patch it.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from services.ops import running
from services.ops.arguments import odd_number, port_number, seconds
from services.ops.database_commands import add_database_commands
from services.ops.errors import CommandError

DEFAULT_PORT = 8000


def main() -> None:
    """Run one subcommand; exit 1 with one line on an error that the user can mend."""
    arguments = parser().parse_args()
    os.chdir(running.ROOT)
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
        stack_ := add("stack", stack, "serve with one process for each service, RabbitMQ and PostgreSQL until Ctrl-C"),
        gateway_ := add("gateway", gateway, "forward requests to services by their path; `stack` runs this"),
    ):
        one.add_argument(
            "--port", type=port_number, default=os.environ.get("PORT") or DEFAULT_PORT, help="default: $PORT or 8000"
        )
    stack_.add_argument(
        "--standby",
        action="store_true",
        default=os.environ.get("STANDBY", "") not in ("", "0"),
        help="give PostgreSQL a synchronous standby, for `promote` (default: if $STANDBY is 1)",
    )
    stack_.add_argument(
        "--brokers",
        type=odd_number,
        default=os.environ.get("BROKERS") or 1,
        metavar="N",
        help="nodes of RabbitMQ, which form a cluster: 1, 3 or 5 (default: $BROKERS or 1)",
    )
    gateway_.add_argument("--internal", action="store_true", help="forward what services call, and nothing else")
    gateway_.add_argument("target", nargs="+", help="service=port, several of one service are replicas")
    add("promote", promote, "make the standby of the running stack its primary; the old one never takes writes again")
    one = add("token", token, "print a token for what runs on this machine with AUTH=jwt")
    one.add_argument(
        "--sub", required=True, metavar="ID", help="whose it is: the id of a user, or the name of a program"
    )
    one.add_argument("--scope", required=True, help="what it may do, with spaces between: `orders:read orders:write`")
    one.add_argument("--seconds", type=seconds, default=3600, help="for how long it is good (default: 3600)")
    add("shell", shell, "open `nameko shell` against the running stack")
    add_database_commands(add)
    one = add(
        "queues",
        queues,
        "give the queues of events and RPCs the type that QUEUE_TYPE names, while the services are stopped",
    )
    one.add_argument("action", choices=["move"])
    one = add("openapi", openapi, "print the OpenAPI document of the HTTP API")
    one.add_argument("--internal", action="store_true", help="of what services ask each other in the style http")
    add("asyncapi", asyncapi, "print the AsyncAPI document of what crosses the broker")
    return top


def demo(arguments: argparse.Namespace) -> int:
    from services.local.demo import play

    return play(folder("demo"))


def run(arguments: argparse.Namespace) -> None:
    import eventlet

    eventlet.monkey_patch()

    import logging.config

    from services.local import tokens
    from services.local.embedded import serve
    from services.local.page.settings import new_token
    from services.ops.configuration import configuration
    from services.shop import chosen_style

    os.environ.update(tokens.settings())
    config = configuration()
    style = chosen_style()
    logging.config.dictConfig(config["LOGGING"])
    listener = listen(arguments.port)
    token = new_token()
    serve(listener, folder("embedded"), config, style, token, lambda: welcome(listener.getsockname()[1], token))


def folder(name: str) -> Path:
    """Return where embedded mode keeps its data: NAMEKO_HW_FOLDER, or the folder called `name` in .run."""
    return Path(os.environ.get("NAMEKO_HW_FOLDER", running.ROOT / ".run" / name))


def welcome(port: int, token: str) -> None:
    """Print where the page and the API are, with a request to try."""
    from services.local import tokens
    from services.local.page.settings import address

    admin = """-H "Authorization: Bearer $(.venv/bin/nameko-hw token --sub me --scope admin)" """
    with_token = (
        f"""\\
                                  {admin}"""
        if tokens.admins_token()
        else ""
    )

    base = f"http://127.0.0.1:{port}"
    print(
        f"""
Serving on {base}
  watch it, and break it        {address(port, token)}
  the API, to read and to try   {base}/docs
  a first request               curl -s {base}/users -H 'Content-Type: application/json' {with_token}\\
                                  -d '{{"name": "Ada", "email": "ada@example.com"}}'
Ctrl-C stops everything.
""",
        flush=True,
    )


def stack(arguments: argparse.Namespace) -> None:
    from services.local import tokens
    from services.local.net import free_port
    from services.local.page.settings import new_token
    from services.local.stack import serve

    port = arguments.port or free_port()
    token = new_token()
    own = tokens.settings()
    os.environ.update(own)
    serve(
        running.FOLDER,
        port,
        token,
        on_ready=lambda: welcome(port, token),
        settings=own,
        standby=arguments.standby,
        brokers=arguments.brokers,
    )


def token(arguments: argparse.Namespace) -> None:
    from services.local import tokens

    print(tokens.token(arguments.sub, arguments.scope, arguments.seconds))


def promote(arguments: argparse.Namespace) -> None:
    from services.local.page.control import FILE, ControlClient

    if not running.environment():
        raise CommandError("no stack is running: start it with `make stack STANDBY=1` in another terminal")
    try:
        why_not = ControlClient(running.FOLDER / FILE).promote()
    except (OSError, ValueError):
        raise CommandError("the stack does not answer") from None
    if why_not:
        raise CommandError(why_not)
    print("the standby is the primary now; the old primary is copied from it, and becomes its standby")


def gateway(arguments: argparse.Namespace) -> None:
    import eventlet

    eventlet.monkey_patch()

    import logging.config

    from services.local.gateway import serve
    from services.local.page.settings import TOKEN
    from services.ops.configuration import configuration

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
        arguments.internal,
        page_of_stack(arguments.port) if TOKEN in os.environ else None,
    )


def page_of_stack(port: int) -> Any:
    """Return the page as the stack has asked for it, in the environment."""
    from services.local.page.app import Page, Where
    from services.local.page.control import ControlClient
    from services.local.page.settings import CONTROL, TOKEN, collector
    from services.local.page.state import wait_in_green_threads
    from services.ops.configuration import database_urls
    from services.shop import chosen_style

    wait_in_green_threads()
    socket = Path(os.environ[CONTROL])
    return Page(
        Where(
            mode="stack",
            style=chosen_style(),
            port=port,
            token=os.environ[TOKEN],
            urls=database_urls(),
            folder=socket.parent,
            control=ControlClient(socket),
            collector=collector(),
        )
    )


def listen(port: int) -> Any:
    """Listen on a port of 127.0.0.1."""
    import eventlet

    try:
        return eventlet.listen(("127.0.0.1", port), backlog=1024, reuse_port=False)
    except OSError as error:
        raise CommandError(f"port {port}: {error.strerror}. Choose another with PORT=...") from None


def shell(arguments: argparse.Namespace) -> None:
    from services.local.stack import NAMEKO

    environment = running.environment()
    if not environment:
        raise CommandError("no stack is running: start it with `make stack` in another terminal")
    if "AMQP_URI" not in environment:
        from services.ops.http_shell import interact

        return interact(environment)
    from services.ops.nameko_shell import config_file

    os.execve(NAMEKO, [NAMEKO, "shell", "--config", str(config_file(environment))], {**os.environ, **environment})


def queues(arguments: argparse.Namespace) -> None:
    from services.ops.queues import move_all

    move_all()


def openapi(arguments: argparse.Namespace) -> None:
    from services.ops.openapi import document
    from services.shop import STYLES, chosen_style

    print(document(STYLES["http"], internal=True) if arguments.internal else document(chosen_style()), end="")


def asyncapi(arguments: argparse.Namespace) -> None:
    from services.ops.asyncapi import document
    from services.shop import chosen_style

    print(document(chosen_style()), end="")


if __name__ == "__main__":
    main()
