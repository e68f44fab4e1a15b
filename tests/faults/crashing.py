"""Nameko's command in a process that can be told to die right before or right after a crash point.

Run in place of `nameko`: `python -m tests.faults.crashing run --config config.yaml services.orders.service`.
The services know nothing of it. What it is told stands in a file: a line for each death with its phase (`before` or
`after`), the file, and the lines of the point. It dies at the first of them, and the next process at the next.
"""
import eventlet

eventlet.monkey_patch()

import os  # noqa: E402
import sys  # noqa: E402
from functools import wraps  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402

import nameko.cli.main  # noqa: E402
import nameko_sqlalchemy.database  # noqa: E402

from services.common.consumer import QueueConsumer  # noqa: E402
from services.common.database import Autocommit  # noqa: E402
from services.common.publisher import LazyPublisher, Publisher  # noqa: E402
from services.local.stack import ROOT  # noqa: E402
from tests.faults.sabotage import sabotage  # noqa: E402

EXIT_CODE = 86


def maybe_die(plan: Path, phase: str) -> None:
    """Die if the plan's first line names this phase of the statement that is being run."""
    try:
        line, *others = plan.read_text().splitlines()
    except (FileNotFoundError, ValueError):
        return
    planned, file, first, last = line.split()
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == str(ROOT / file) and int(first) <= frame.f_lineno <= int(last):
            if planned == phase:
                plan.write_text("\n".join(others)) if others else plan.unlink()
                os._exit(EXIT_CODE)
            return
        frame = frame.f_back


def crashable(cls: type, method: str, plan: Path, phases: tuple[str, ...] = ("before", "after")) -> None:
    """Let `cls.method` die before it does its work, or after."""
    work = getattr(cls, method)

    @wraps(work)
    def wrapper(*args, **kwargs):
        if "before" in phases:
            maybe_die(plan, "before")
        result = work(*args, **kwargs)
        if "after" in phases:
            maybe_die(plan, "after")
        return result

    setattr(cls, method, wrapper)


def main() -> None:
    plan = Path(os.environ["CRASH_PLAN_FOLDER"], sys.argv[-1].split(".")[1])
    crashable(nameko_sqlalchemy.database.Session, "commit", plan)
    crashable(Autocommit, "__enter__", plan, ("before",))
    crashable(Autocommit, "__exit__", plan, ("after",))
    crashable(Publisher, "publish", plan)
    crashable(LazyPublisher, "publish_lazily", plan)
    crashable(LazyPublisher, "confirms", plan)
    crashable(QueueConsumer, "ack_message", plan)
    sabotage(os.environ.get("SABOTAGE", ""))
    nameko.cli.main.main()


if __name__ == "__main__":
    main()
