"""Streams of events while their service dies, stops, and is full of them."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from socket import create_connection, socket

import psutil

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import one, rows, wait_until_quiet
from tests.client import LETTER_S, Api
from tests.events import Browser, Follower
from tests.load import Load

MOST = 500  # MAX_STREAMS
GET = b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
DEATHS = 2
BEGINS_S, STOPS_S = 10, 5  # a stream; the service, with all of them open
LETTERS = "select id from letters where transaction > cast(:since as xid8)"


def test_every_letter_is_told_once_however_often_the_service_dies(stack: Stack, api: Api):
    since = one(stack, "notifications", "select cast(pg_current_xact_id() as text)")
    whole = Browser(stack.url, api.get("/events").json()["next"])
    with whole as browser, Load(stack.url, clients=4, pause_s=0.02) as load:
        for _ in range(DEATHS):
            before, streams = load.counted["paid"], browser.streams
            wait_for(lambda before=before: load.counted["paid"] > before + 10, LETTER_S, "the load to run")
            psutil.Process(stack.supervisor.pid("notifications")).kill()
            wait_for(lambda streams=streams: browser.streams > streams, LETTER_S, "the browser to come back")
        load.__exit__()
        wait_until_quiet(stack)
        letters = [str(id_) for (id_,) in rows(stack, "notifications", LETTERS, since=since)]
        with Follower(stack.url, api.get("/events").json()["next"]) as last:  # what is told after this is told to both
            user_id = api.new_user()["id"]
            api.post("/notifications", {"user_id": user_id, "subject": "the last", "body": ""})
            last.wait_for(1)
            wait_for(lambda: last.events[0] in browser.stream.events, LETTER_S, "the browser to be told of it too")
    told = [event.letter["id"] for event in browser.events]
    assert len(letters) > DEATHS * 10 and len(told) == len(set(told))
    assert set(letters) <= set(told) and told[-1] == last.events[0].letter["id"]
    assert len({event.id for event in browser.events}) == len(told)


def test_who_goes_away_leaves_nothing_behind(stack: Stack):
    with Follower(stack.url):
        assert open_streams(stack) >= 1
    wait_for(lambda: open_streams(stack) == 0, STOPS_S, "the end of the stream behind the gateway")


def test_500_streams_begin_together_hold_up_nobody_and_end_at_once(stack: Stack, api: Api):
    [port] = stack.ports["notifications"]
    pid = stack.supervisor.pid("notifications")
    wait_for(lambda: open_streams(stack) == 0, LETTER_S, "the end of those of other tests")
    with burst(port):
        pass
    with burst(port) as streams:  # and again at once, as browsers that are cut off come back
        answer = api.request("GET", "/events", headers={"Accept": "text/event-stream"})
        assert answer.status_code == 503 and answer.headers["Retry-After"] and "500 streams" in answer.json()["detail"]
        connected = "select count(*) from pg_stat_activity where application_name = 'notifications'"
        assert one(stack, "notifications", connected) <= 24  # DB_CONNECTIONS, and 4 more
        user_id = api.new_user(balance=1)["id"]
        started = time.monotonic()
        assert api.order(user_id, 1).status_code in (201, 202)
        [letter] = api.letters(user_id, 1)
        for connection in streams:
            came = b""
            while letter["id"].encode() not in came:  # heartbeats come too
                block = connection.recv(65_536)
                assert block, came
                came += block
        assert time.monotonic() - started < BEGINS_S
        stopped = time.monotonic()
        psutil.Process(pid).send_signal(signal.SIGTERM)
        for connection in streams:
            while connection.recv(65_536):
                pass
        wait_for(lambda: stack.supervisor.pid("notifications") != pid, STOPS_S, "the end of the process")
        assert time.monotonic() - stopped < STOPS_S
    wait_for(stack.is_ready, 30, "the stack to be ready")


def open_streams(stack: Stack) -> int:
    """Return how many connections notifications has, when nothing else is asked of it."""
    [port] = stack.ports["notifications"]
    connections = psutil.Process(stack.supervisor.pid("notifications")).net_connections()
    return sum(one.status == "ESTABLISHED" and one.laddr.port == port for one in connections)


@contextmanager
def burst(port: int) -> Iterator[list[socket]]:
    """Open as many streams as there can be, all asked for before any is answered; close them at the end."""
    with ExitStack() as at_end:

        def ask() -> socket:
            connection = at_end.enter_context(create_connection(("127.0.0.1", port), timeout=BEGINS_S))
            connection.sendall(GET)
            return connection

        streams = [ask() for _ in range(MOST)]
        deadline = time.monotonic() + BEGINS_S
        for index in range(MOST):
            while not begins(streams[index]):  # its deadline was over, as the machine is busy
                assert time.monotonic() < deadline
                streams[index] = ask()
        yield streams


def begins(stream: socket) -> bool:
    """Wait for the first event of a stream; return False if it is refused for now."""
    came = b""
    while b"id: " not in came:
        block = stream.recv(65_536)
        came += block
        if came.startswith(b"HTTP/1.1 503") and b"Retry-After" in came:
            return False
        assert block and came.startswith(b"HTTP/1.1 200"), came
    return True
