"""Nameko's command in a process that dies right before or right after a crash point, or loses the reply of its work.

It runs in place of `nameko`: `python -m tests.faults.crashing run --config config.yaml services.orders.broker`. The
services do not know of it. What is imported once is there for all processes, as each is a fork. Its plan is a file with
a line for each harm: the phase, the file, and the lines of the point. The harms are done in this order, each once;
after a death the next process goes on with the plan.

`before`, `after`: the process dies.
`lost`: the commit, the publish or the call takes effect, then its connection dies before the reply is read. An
acknowledgement has no reply; it finds its connection dead.
"""

import eventlet

eventlet.monkey_patch()

import ctypes  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from contextlib import suppress  # noqa: E402
from functools import wraps  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402

import nameko.cli.main  # noqa: E402
import nameko_sqlalchemy.database  # noqa: E402
import psycopg2  # noqa: E402
import urllib3  # noqa: E402

from services.kit.amqp.consumer import QueueConsumer  # noqa: E402
from services.kit.amqp.publisher import ConfirmedChannel, PipelinedPublisher, Publisher  # noqa: E402
from services.kit.db import database  # noqa: E402
from services.kit.db.database import Autocommit  # noqa: E402
from services.kit.db.statements import PreparedStatement  # noqa: E402
from services.kit.web.client import HttpClient  # noqa: E402
from services.local.sabotage import sabotage  # noqa: E402
from services.local.stack import ROOT  # noqa: E402

EXIT_CODE = 86
PR_SET_PDEATHSIG = 1  # prctl(2)


def is_planned(plan: Path, phase: str) -> bool:
    """Return whether the first line of the plan is this phase of the running statement; if so, take the line out."""
    try:
        line, *others = plan.read_text().splitlines()
    except (FileNotFoundError, ValueError):
        return False
    planned, file, first, last = line.split()
    if planned != phase:
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == str(ROOT / file) and int(first) <= frame.f_lineno <= int(last):
            plan.write_text("\n".join(others)) if others else plan.unlink()
            return True
        frame = frame.f_back
    return False


def crashable(cls: type, method: str, plan: Path, phases: tuple[str, ...] = ("before", "after")) -> None:
    """Let the process die before `cls.method` does its work, or after."""
    work = getattr(cls, method)

    @wraps(work)
    def wrapper(*args, **kwargs):
        if "before" in phases and is_planned(plan, "before"):
            os._exit(EXIT_CODE)
        result = work(*args, **kwargs)
        if "after" in phases and is_planned(plan, "after"):
            os._exit(EXIT_CODE)
        return result

    setattr(cls, method, wrapper)


def losing_commits(plan: Path) -> None:
    """Let the connection to the database die right after the reply to a statement or a COMMIT has come."""
    wait = database.wait

    def wait_and_lose(*args, **kwargs):
        wait(*args, **kwargs)
        if ends_a_transaction() and is_planned(plan, "lost"):
            raise psycopg2.OperationalError("server closed the connection unexpectedly")  # psycopg2 closes it then

    database.wait = wait_and_lose


def ends_a_transaction() -> bool:
    """Return whether SQLAlchemy waits for a COMMIT, or for a statement that may be a transaction by itself."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "do_commit":
            return True
        if frame.f_code.co_name == "do_execute":
            return not frame.f_locals["statement"].lstrip().lower().startswith(("prepare", "begin"))
        frame = frame.f_back
    return False


def losing_confirms(plan: Path) -> None:
    """Let the connection to the broker die right after confirms have come, or messages were sent without them."""
    wait_for_confirms, send = ConfirmedChannel.wait_for_confirms, ConfirmedChannel.send

    def wait_and_lose(self, *args, **kwargs):
        taken = wait_for_confirms(self, *args, **kwargs)
        if is_planned(plan, "lost"):
            raise ConnectionResetError("the confirms were lost")
        return taken

    def send_and_lose(self, *args, **kwargs):
        send(self, *args, **kwargs)
        if sys._getframe(1).f_code.co_name != "publish" and is_planned(plan, "lost"):
            raise ConnectionResetError("the connection was lost after the messages")

    ConfirmedChannel.wait_for_confirms, ConfirmedChannel.send = wait_and_lose, send_and_lose


def losing_answers(plan: Path) -> None:
    """Let the connection to another service die right after it has answered."""
    send = HttpClient._send

    def send_and_lose(self, *args, **kwargs):
        answer = send(self, *args, **kwargs)
        if is_planned(plan, "lost"):
            raise urllib3.exceptions.ProtocolError("the answer was lost")
        return answer

    HttpClient._send = send_and_lose


def losing_acknowledgements(plan: Path) -> None:
    """Let an acknowledgement find its connection dead."""
    acknowledge = QueueConsumer.ack_message

    def lose(self, message, *args, **kwargs):
        if is_planned(plan, "lost"):
            with suppress(OSError):
                message.channel.connection.transport.sock.shutdown(socket.SHUT_RDWR)
        return acknowledge(self, message, *args, **kwargs)

    QueueConsumer.ack_message = lose


def in_forks(work: Callable[[], object]) -> None:
    """Do `work` in a fork of this process, and in another one whenever it has died as planned."""
    waitpid = eventlet.patcher.original("os").waitpid
    while True:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            random.seed()  # else each fork makes the ids that the one before has made
            work()
            sys.exit()
        signal.signal(signal.SIGTERM, lambda *_, child=child: os.kill(child, signal.SIGTERM))
        code = os.waitstatus_to_exitcode(waitpid(child, 0)[1])
        if code != EXIT_CODE:
            os._exit(code if code >= 0 else 128 - code)


def main() -> None:
    plan = Path(os.environ["CRASH_PLAN_FOLDER"], sys.argv[-1].split(".")[1])
    crashable(nameko_sqlalchemy.database.Session, "commit", plan)
    crashable(Autocommit, "__enter__", plan, ("before",))
    crashable(Autocommit, "__exit__", plan, ("after",))
    crashable(PreparedStatement, "run", plan)
    crashable(Publisher, "publish", plan)
    crashable(PipelinedPublisher, "send", plan)
    crashable(PipelinedPublisher, "wait_for_confirms", plan)
    crashable(QueueConsumer, "ack_message", plan)
    crashable(HttpClient, "call", plan)
    losing_commits(plan)
    losing_confirms(plan)
    losing_acknowledgements(plan)
    losing_answers(plan)
    sabotage(os.environ.get("SABOTAGE", ""))
    import_module(sys.argv[-1])
    in_forks(nameko.cli.main.main)


if __name__ == "__main__":
    main()
