"""The scripts by which RabbitMQ and PostgreSQL get their users, on real servers, with the services on top."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import amqp
import psutil
import psycopg2
import pytest
from kombu import Connection, Exchange

from services.local import rabbitmq as local_rabbitmq
from services.local.net import HOST, free_port, wait_for
from services.local.postgres import USER, WHEEL, Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import ROOT, database_variable
from services.local.supervisor import Supervisor
from services.shop import SERVICES, STYLES, module_of
from tests.chart.objects import render
from tests.chart.values_table import CHART
from tests.client import Api
from tests.conftest import QUICK

READY_S = 60
VHOST = "nameko-hw"
PASSWORDS = {f"{name.upper()}_PASSWORD": uuid4().hex for name in (*SERVICES, "admin", "postgres")}
HBA = "host all {superuser} all trust\nhost all all all scram-sha-256\n"


def password(name: str) -> str:
    return PASSWORDS[f"{name.upper()}_PASSWORD"]


def definitions(passwords: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sh", str(CHART / "files" / "rabbitmq-definitions.sh")],
        env={**os.environ, **passwords},
        capture_output=True,
        text=True,
    )


def make_roles(postgres: Postgres, passwords: dict[str, str]) -> None:
    [wheel] = importlib.util.find_spec(WHEEL.replace("-", "_")).submodule_search_locations
    psql = max(Path(wheel).glob("pginstall*/bin/psql"))
    made = subprocess.run(
        ["sh", str(CHART / "files" / "postgres-roles.sh")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **passwords,
            "PATH": f"{psql.parent}:{os.environ['PATH']}",
            "SERVICES": " ".join(SERVICES),
            "POSTGRES_USER": USER,
            "PGHOST": HOST,
            "PGPORT": str(postgres.port),
        },
    )
    assert made.returncode == 0, made.stderr


def database_url(postgres: Postgres, service: str) -> str:
    return f"postgresql://{service}:{password(service)}@{HOST}:{postgres.port}/{service}"


def connect(postgres: Postgres, user: str, database: str, given: str) -> psycopg2.extensions.connection:
    connection = psycopg2.connect(host=HOST, port=postgres.port, user=user, dbname=database, password=given)
    connection.autocommit = True
    return connection


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that asks everyone but the superuser for a password, with the roles of the chart."""
    folder = tmp_path_factory.mktemp("postgres")
    with Postgres(folder) as server:
        (folder / "data" / "pg_hba.conf").write_text(HBA.format(superuser=USER))
        with closing(connect(server, USER, "postgres", "")) as connection, connection.cursor() as cursor:
            cursor.execute("select pg_reload_conf()")
        make_roles(server, PASSWORDS)
        yield server


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node with the users of the chart; the guest is there only for our own look at whether it runs."""
    folder = tmp_path_factory.mktemp("rabbitmq")
    given = json.loads(definitions(PASSWORDS).stdout)
    given["vhosts"].append({"name": "/"})
    given["users"].append({"name": "guest", "password": "guest", "tags": []})
    given["permissions"].append({"user": "guest", "vhost": "/", "configure": "", "write": "", "read": ""})
    (folder / "definitions.json").write_text(json.dumps(given))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            local_rabbitmq, "CONFIG", f"{local_rabbitmq.CONFIG}load_definitions = {folder / 'definitions.json'}\n"
        )
        with RabbitMQ(folder) as node:
            yield node


@dataclass
class Services:
    """The four services, each with its own user on both servers."""

    addresses: dict[str, str]
    logs: Path


@pytest.fixture(
    scope="module", params=[style for style in STYLES.values() if style.has_broker], ids=lambda one: one.name
)
def services(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    rabbitmq: RabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    supervisor = Supervisor(say=lambda _: None)
    addresses = {}
    for service in SERVICES:
        port = free_port()
        env = {
            **QUICK,
            "WEB_SERVER_ADDRESS": f"{HOST}:{port}",
            database_variable(service): database_url(postgres, service),
            "AMQP_URI": f"amqp://{service}:{password(service)}@{HOST}:{rabbitmq.port}/{VHOST}",
        }
        for _ in range(2):  # safe to run twice
            subprocess.run(
                [sys.executable, "-m", "services.ops.cli", "migrate", service],
                check=True,
                cwd=ROOT,
                capture_output=True,
                env={**os.environ, **env},
            )
        supervisor.add(
            service,
            [sys.executable, "-m", "nameko", "run", "--config", "config.yaml", module_of(service, request.param)],
            env,
            ROOT,
            folder / f"{service}.log",
        )
        addresses[service] = f"http://{HOST}:{port}"
    supervisor.start()
    try:
        for address in addresses.values():
            with Api(address) as api:
                wait_for(api.is_ready, READY_S, f"the services, see {folder}")
        yield Services(addresses, folder)
    finally:
        supervisor.stop()


def test_the_scenario_of_helm_test_passes_with_the_permissions_of_each_service(services: Services):
    [scenario] = render().pod("nameko-hw-test").spec["containers"]
    python, *command = scenario["command"]
    assert python == "python"
    played = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "ADDRESSES": json.dumps(services.addresses)},
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert played.stdout.rstrip().endswith("PASSED: 8 of 8 steps hold")
    for log in services.logs.iterdir():
        assert "AccessRefused" not in log.read_text() and "ACCESS_REFUSED" not in log.read_text()


def test_what_cannot_be_handled_is_a_dead_letter(services: Services, rabbitmq: RabbitMQ, postgres: Postgres):
    with broker(rabbitmq, "users") as users:
        users.Producer().publish(
            {"not": "an event"}, exchange=Exchange("users.events", passive=True), routing_key="user_registered"
        )
    with (
        closing(connect(postgres, "notifications", "notifications", password("notifications"))) as connection,
        connection.cursor() as cursor,
    ):
        dead = "select 1 from inbox where handler = 'on_user_registered' and next_attempt_at is null"
        wait_for(lambda: cursor.execute(dead) or cursor.fetchone(), READY_S, "a dead letter")


def test_no_password_is_in_an_answer_a_log_or_a_command_line_not_even_when_the_servers_refuse_it(
    services: Services, rabbitmq: RabbitMQ, postgres: Postgres
):
    said = []
    try:
        make_roles(postgres, dict.fromkeys(PASSWORDS, "another"))
        with closing(connect(postgres, USER, "postgres", "")) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = any(%s)", [[*SERVICES]]
            )
        for address in services.addresses.values():
            with Api(address) as api:
                wait_for(lambda client=api: not client.is_ready(), READY_S, "a service to miss its database")
                said += [api.get(path).text for path in ("/health/ready", "/metrics", "/users", "/orders")]
        urls = {database_variable(one): database_url(postgres, one) for one in SERVICES}
        refused = {
            **os.environ,
            **urls,
            "AMQP_URI": f"amqp://orders:{password('users')}@{HOST}:{rabbitmq.port}/{VHOST}",
        }
        for command in (["migrate", "orders"], ["pending"], ["queues", "move"]):
            argv = [sys.executable, "-m", "services.ops.cli", *command]
            failed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=refused, timeout=READY_S)
            assert failed.returncode != 0
            said += [failed.stdout, failed.stderr]
    finally:
        make_roles(postgres, PASSWORDS)
    assert any("password authentication failed" in text for text in said)
    folders = (services.logs, rabbitmq.folder, postgres.folder)
    logs = [log.read_text(errors="replace") for folder in folders for log in folder.rglob("*.log*")]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert [text for text in (*said, *logs, *lines) for secret in PASSWORDS.values() if secret in text] == []


def broker(rabbitmq: RabbitMQ, user: str) -> Connection:
    return Connection(f"amqp://{user}:{password(user)}@{HOST}:{rabbitmq.port}/{VHOST}")


def test_nobody_has_the_password_of_another(rabbitmq: RabbitMQ):
    with pytest.raises(amqp.AccessRefused):
        Connection(f"amqp://orders:{password('users')}@{HOST}:{rabbitmq.port}/{VHOST}").connect()


@pytest.mark.parametrize("wrong", ['x"y', "a b", "a@b", "a\\b"])
def test_a_password_that_would_break_the_definitions_is_refused(wrong: str):
    made = definitions({**PASSWORDS, "ORDERS_PASSWORD": wrong})
    assert made.returncode != 0
    assert made.stderr.startswith("orders: a password here may hold only") and wrong not in made.stderr


def test_a_missing_password_stops_the_definitions():
    assert definitions({name: value for name, value in PASSWORDS.items() if name != "USERS_PASSWORD"}).returncode != 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_reaches_its_own_database_and_no_other(postgres: Postgres, service: str):
    with closing(connect(postgres, service, service, password(service))) as connection, connection.cursor() as cursor:
        cursor.execute("create table mine (x int); drop table mine")
        cursor.execute("select rolsuper or rolcreatedb or rolcreaterole from pg_roles where rolname = current_user")
        assert cursor.fetchone() == (False,)
    for other in {*SERVICES, "postgres", "template1"} - {service}:
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            connect(postgres, service, other, password(service))


def test_roles_can_be_made_again_with_new_passwords_and_keep_their_data(postgres: Postgres):
    with closing(connect(postgres, "users", "users", password("users"))) as connection, connection.cursor() as cursor:
        cursor.execute("create table kept (x int)")
    try:
        make_roles(postgres, {**PASSWORDS, "USERS_PASSWORD": "a new 'one'"})
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            connect(postgres, "users", "users", password("users"))
        with closing(connect(postgres, "users", "users", "a new 'one'")) as connection, connection.cursor() as cursor:
            cursor.execute("drop table kept")
    finally:
        make_roles(postgres, PASSWORDS)
