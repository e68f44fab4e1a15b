"""The private PostgreSQL and RabbitMQ: they survive a kill with their data, and leave no process behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import amqp
import psutil
import psycopg2
import pytest
from sqlalchemy.engine import make_url

from services.local import needs
from services.local import rabbitmq as module
from services.local.net import HOST, free_port, port_is_free, wait_for
from services.local.postgres import NOBODY, Postgres, program
from services.local.rabbitmq import RabbitMQ
from services.local.server import CannotStart, FolderInUse
from services.local.supervisor import dies_with_parent

SLACK_S = 60
ROOT = Path(__file__).parents[2]
START_BOTH = """
import sys, time
from pathlib import Path
from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
folder = Path(sys.argv[1])
with Postgres(folder / "postgres"), RabbitMQ(folder / "rabbitmq"):
    print("up", flush=True)
    time.sleep(600)
"""

needs_rabbitmq = pytest.mark.usefixtures("_installed_rabbitmq")
needs_death_signal = pytest.mark.skipif(not dies_with_parent("KILL"), reason="the system has no death signal")


@pytest.fixture(scope="session")
def _installed_rabbitmq() -> None:
    """Install RabbitMQ, or say what is missing."""
    RabbitMQ.ensure_installed()


def processes_of(folder: Path) -> list[str]:
    """The command lines of the processes that name the folder or work in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


def no_process_of(folder: Path) -> None:
    """Wait for the last process of a stopped node: Erlang's port programs end by themselves a moment after it."""
    wait_for(lambda: not processes_of(folder), SLACK_S, f"the processes of {folder} to end")


def query(postgres: Postgres, statement: str, database: str = "shop") -> list[tuple[Any, ...]]:
    url = make_url(postgres.url(database))
    with closing(psycopg2.connect(host=url.host, port=url.port, user=url.username, dbname=url.database)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    with Postgres(tmp_path / "postgres") as postgres:
        postgres.ensure_databases(["shop"])
        yield postgres
    assert processes_of(tmp_path) == []


def test_postgres_keeps_committed_rows_through_a_kill_on_the_same_port(postgres):
    query(postgres, "create table kept (id int)")
    query(postgres, "insert into kept values (42)")
    port, killed = postgres.port, postgres.pid
    os.kill(killed, signal.SIGKILL)
    postgres.start()
    assert postgres.port == port and postgres.pid != killed
    assert query(postgres, "select id from kept") == [(42,)]


def test_postgres_keeps_rows_and_databases_through_a_stop(postgres):
    query(postgres, "create table kept as select 42 as id")
    postgres.stop()
    assert not postgres.running and port_is_free(postgres.port)
    with Postgres(postgres.folder) as later:
        later.ensure_databases(["shop", "another one"])
        assert query(later, "select id from kept") == [(42,)]
        assert query(later, "select 1", "another one") == [(1,)]


def test_postgres_is_durable_and_listens_on_loopback_only(postgres):
    settings = dict(query(postgres, "select name, setting from pg_settings"))
    assert settings["fsync"] == settings["synchronous_commit"] == settings["full_page_writes"] == "on"
    assert settings["max_connections"] == "300"
    assert (settings["listen_addresses"], settings["unix_socket_directories"]) == (HOST, "")


def test_postgres_takes_settings(tmp_path):
    with Postgres(tmp_path, settings={"max_connections": "17"}) as postgres:
        assert query(postgres, "show max_connections", "postgres") == [("17",)]


def test_a_second_postgres_in_the_folder_is_refused_in_one_line_and_harms_nothing(postgres, monkeypatch):
    monkeypatch.setattr("services.local.server.LEFTOVERS_S", 0.3)
    with pytest.raises(FolderInUse) as refused:
        Postgres(postgres.folder).start()
    assert str(refused.value) == f"PostgreSQL is already running in {postgres.folder}"
    assert query(postgres, "select 1") == [(1,)]


def test_two_postgres_run_side_by_side(postgres, tmp_path):
    with Postgres(tmp_path / "other") as other:
        other.ensure_databases(["shop"])
        query(other, "create table only_here (id int)")
        assert query(postgres, "select to_regclass('only_here')") == [(None,)]


def test_postgres_tells_when_its_port_is_taken(postgres, tmp_path):
    with pytest.raises(CannotStart, match=f"port {postgres.port} is taken"):
        Postgres(tmp_path / "other", port=postgres.port).start()
    assert processes_of(tmp_path / "other") == []


def test_postgres_that_does_not_come_up_shows_its_log(tmp_path):
    with pytest.raises(CannotStart, match='(?s)postgres.log.*"no_such_setting"'):
        Postgres(tmp_path, settings={"no_such_setting": "1"}).start()
    assert processes_of(tmp_path) == []


def test_postgres_starts_though_the_pid_of_its_killed_server_has_a_new_owner(postgres):
    os.kill(postgres.pid, signal.SIGKILL)
    pid_file = postgres.folder / "data" / "postmaster.pid"
    wait_for(lambda: not postgres.running, SLACK_S, "the server to die")
    user = NOBODY if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user) as innocent:
        try:
            pid_file.write_text(re.sub(r"^\d+", str(innocent.pid), pid_file.read_text()))
            postgres.start()
            assert query(postgres, "select 1") == [(1,)]
        finally:
            innocent.kill()


def test_postgres_starts_over_after_a_first_start_that_was_killed(tmp_path):
    (tmp_path / "data.new" / "base").mkdir(parents=True)
    with Postgres(tmp_path) as postgres:
        assert query(postgres, "select 1", "postgres") == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reaches below another user's private folder")
def test_root_starts_postgres_and_its_programs_below_a_private_folder(tmp_path, monkeypatch):
    private = tmp_path / "root"
    private.mkdir(mode=0o700)
    (private / "bin").symlink_to(program("postgres").parent)
    monkeypatch.setattr("services.local.postgres.program", lambda name: private / "bin" / name)
    with Postgres(private / "postgres") as postgres:
        assert query(postgres, "select 1", "postgres") == [(1,)]
        assert psutil.Process(postgres.pid).uids().effective == NOBODY


def test_a_frozen_postgres_can_be_stopped(postgres):
    os.kill(postgres.pid, signal.SIGSTOP)
    postgres.stop()
    assert processes_of(postgres.folder) == []


def put(node: RabbitMQ, body: str) -> None:
    """Put one persistent message into a durable queue, and wait until the node has it."""
    with amqp.Connection(f"{HOST}:{node.port}", confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True, auto_delete=False)
        channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2), routing_key="kept")


def get(node: RabbitMQ) -> str | None:
    """Take one message from the queue; None when it is empty."""
    with amqp.Connection(f"{HOST}:{node.port}") as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True, auto_delete=False)
        message = channel.basic_get("kept", no_ack=True)
        return str(message.body) if message else None


@needs_rabbitmq
def test_rabbitmq_keeps_its_durable_queue_through_a_stop_and_a_kill(tmp_path):
    with RabbitMQ(tmp_path) as node:
        assert node.uri == f"amqp://guest:guest@{HOST}:{node.port}/"
        assert psutil.Process(node.pid).name().startswith("beam")
        put(node, "first")
    no_process_of(tmp_path)
    # RabbitMQ 3.10 may forget a queue declared less than half a second before a kill: here it is an old one.
    with RabbitMQ(tmp_path) as later:  # on another port
        put(later, "second")
        killed = later.pid
        os.kill(killed, signal.SIGKILL)
        later.start()
        assert later.pid != killed
        assert (get(later), get(later), get(later)) == ("first", "second", None)
    no_process_of(tmp_path)


@needs_rabbitmq
def test_two_rabbitmq_run_side_by_side_and_one_folder_has_one(tmp_path, monkeypatch):
    with RabbitMQ(tmp_path / "one") as one, RabbitMQ(tmp_path / "two") as two:
        put(one, "of one")
        put(two, "of two")
        assert (get(one), get(one)) == ("of one", None)
        assert (get(two), get(two)) == ("of two", None)
        listening = {
            address.laddr.ip
            for node in (one, two)
            for address in psutil.Process(node.pid).net_connections()
            if address.status == psutil.CONN_LISTEN
        }
        assert listening == {HOST}
        monkeypatch.setattr("services.local.server.LEFTOVERS_S", 0.3)
        with pytest.raises(FolderInUse, match=f"RabbitMQ is already running in {one.folder}"):
            RabbitMQ(one.folder).start()
        os.kill(two.pid, signal.SIGSTOP)
        two.stop()
        no_process_of(tmp_path / "two")
        put(one, "still here")
        assert get(one) == "still here"
    no_process_of(tmp_path)


@needs_rabbitmq
def test_rabbitmq_tells_when_its_port_is_taken_or_it_does_not_come_up(tmp_path, monkeypatch):
    node = RabbitMQ(tmp_path)
    monkeypatch.setattr(module, "CONFIG", "no_such.setting = 1\n")
    with pytest.raises(CannotStart, match="(?s)rabbitmq.log.*no_such"):
        node.start()
    no_process_of(tmp_path)
    with socket.create_server((HOST, node.port)), pytest.raises(CannotStart, match=f"port {node.port} is taken"):
        node.start()


@needs_rabbitmq
@needs_death_signal
def test_both_servers_die_with_their_parent_and_start_again_at_once(tmp_path):
    argv = [sys.executable, "-c", START_BOTH, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == b"up\n"
            assert len(processes_of(tmp_path)) >= 4
        finally:
            parent.kill()
    with Postgres(tmp_path / "postgres") as postgres:
        assert query(postgres, "select 1", "postgres") == [(1,)]
    no_process_of(tmp_path)


def test_free_ports_are_not_given_twice_and_waiting_ends():
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="waited 0.2 s in vain for the moon"):
        wait_for(lambda: False, 0.2, "the moon")
    assert 0.2 <= time.monotonic() - began < SLACK_S


def test_a_missing_rabbitmq_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "rabbitmq_server", lambda: None)
    monkeypatch.setattr(needs, "_as_root", lambda: None)
    for start in (RabbitMQ(tmp_path / "node").start, RabbitMQ.ensure_installed):
        with pytest.raises(needs.NotInstalled, match="sudo apt-get install rabbitmq-server .* brew install rabbitmq"):
            start()
