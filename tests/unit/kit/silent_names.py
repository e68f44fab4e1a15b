"""Connect to a database and a broker whose names nobody looks up: the name server takes questions and never answers.

test_dns.py runs this as a process in a network of its own.
"""

import eventlet

eventlet.monkey_patch()

import fcntl  # noqa: E402
import struct  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from types import SimpleNamespace  # noqa: E402

from eventlet import Timeout, patcher  # noqa: E402

from services.kit.amqp.nodes import nodes_of  # noqa: E402
from services.kit.amqp.publisher import ConfirmedChannel  # noqa: E402
from services.kit.config import check  # noqa: E402
from services.kit.db.database import Database  # noqa: E402
from services.kit.dns import install  # noqa: E402
from services.kit.errors import Unavailable  # noqa: E402
from services.kit.tracing import Tracer  # noqa: E402
from services.orders.models import Base  # noqa: E402
from tests.unit.kit.loop import longest_stop  # noqa: E402
from tests.unit.kit.test_config import config  # noqa: E402

LOOP_S = 1.0
DEADLINE_S = 1.5
socket = patcher.original("socket")
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def server() -> object:
    """Switch the loopback interface on, and return the name server."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(silent.fileno(), SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING))
    silent.bind(("127.0.0.1", 53))
    return silent


def connect_to_database() -> None:
    database = Database(Base)
    database.container = SimpleNamespace(
        tracer=Tracer(),
        settings=check({**config(), "DB_TIMEOUT_S": 0.2}),
        service_name="orders",
        config={"DB_URIS": {"orders:Base": "postgresql+psycopg2://postgres@database.example/orders"}},
    )
    database.setup()
    with database.autocommit():
        pass


def connect_to_broker() -> None:
    nodes_of({"AMQP_URI": "amqp://broker.example"}).connect(1, 0, ConfirmedChannel)


def outcome(connect: Callable[[], None]) -> str:
    """Return the name of the error that `connect` raises; more than that if it was late, or stopped the event loop."""
    started, name = time.monotonic(), ""
    with longest_stop() as stopped_s:
        try:
            with Timeout(DEADLINE_S, Unavailable("too late")):
                connect()
        except Exception as error:
            name = type(error).__name__
        took_s = time.monotonic() - started
    if took_s > DEADLINE_S + LOOP_S or stopped_s[0] > LOOP_S:
        return f"took {took_s:.1f} s, the loop stood still for {stopped_s[0]:.1f} s, {name}"
    return name


if __name__ == "__main__":
    name_server = server()
    install()
    print(outcome(connect_to_database), outcome(connect_to_broker))
