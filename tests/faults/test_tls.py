"""The services with a PostgreSQL and a RabbitMQ that take nothing but TLS: all goes on, and no stranger is trusted."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.needs import POSTGRESQL
from services.local.net import free_port, wait_for
from services.local.stack import NAMEKO, ROOT, database_variable
from services.ops import running
from services.ops.nameko_shell import config_file
from services.shop import SERVICES, chosen_style
from tests.books import rows, violations, wait_until_quiet
from tests.certificates import Authority
from tests.client import Api, new_email
from tests.commands import audit, nameko_hw
from tests.conftest import QUICK
from tests.encrypted import HOST_NAME, EncryptedStack
from tests.faults.test_draining import suspended

pytestmark = [
    pytest.mark.skipif(not POSTGRESQL.is_there(), reason=POSTGRESQL.line()),
    pytest.mark.skipif(not chosen_style().has_broker, reason="this style has no broker"),
]
HEALED_S = 60
SAID_S = 20
SESSIONS = """
    select count(*) filter (where ssl), count(*) filter (where not ssl)
    from pg_stat_ssl join pg_stat_activity using (pid) where application_name = any(:services)"""
END_SESSIONS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = any(:services)"
#: Have the broker read its certificates anew, and end all connections.
FORGET = (
    'ssl:clear_pem_cache(), [rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].'
)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncryptedStack]:
    with EncryptedStack(tmp_path_factory.mktemp("encrypted"), QUICK) as running:
        yield running


def order_is_paid(stack: EncryptedStack) -> None:
    """Have a new user order, and see the payment and the letter."""
    with Api(stack.url) as api:
        user_id = api.new_user(balance=100)["id"]
        assert api.ended_order(user_id, 40)["status"] == "paid"
        assert api.balance(user_id) == 60
        assert api.letters(user_id, 1)


def test_an_order_is_paid_and_told_of_over_tls_alone(encrypted: EncryptedStack):
    order_is_paid(encrypted)
    [(over_tls, plain)] = rows(encrypted, "users", SESSIONS, services=list(SERVICES))
    assert over_tls >= len(SERVICES) and plain == 0


def test_commands_work_over_tls(encrypted: EncryptedStack):
    for command in (["migrate"], ["pending"], ["outbox", "list"], ["dead-letters", "list"], ["queues", "move"]):
        done = nameko_hw(encrypted, *command)
        assert done.returncode == 0, done.stderr
    audit(encrypted)


@pytest.mark.skipif(chosen_style().name != "broker", reason="only this style has RPCs")
def test_nameko_shell_works_over_tls(encrypted: EncryptedStack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "FOLDER", encrypted.folder)
    environment = {**encrypted.environment(), "AMQP_URI": encrypted.rabbitmq.uri}
    shell = subprocess.run(
        [NAMEKO, "shell", "--config", str(config_file(environment))],
        cwd=ROOT,
        timeout=60,
        input="print(n.rpc.users.known_users(user_ids=[]))\n",
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert "[]" in shell.stdout, shell.stderr


def test_a_frozen_broker_is_an_outage_over_tls_too(encrypted: EncryptedStack):
    with Api(encrypted.url) as api:
        user_id = api.new_user(balance=100)["id"]
        with suspended(encrypted.rabbitmq.pid):
            order = api.order(user_id, 10, user_id)
            assert order.status_code == 202
        path = order.headers["Location"]
        wait_for(lambda: api.get(path).json()["status"] == "paid", HEALED_S, "the order to be paid")
    wait_for(encrypted.is_ready, HEALED_S, "the services to be ready")


#: The host of a URL and what is changed in its parameters, and what the one line says of it.
OF_DATABASES: dict[str, tuple[str, dict[str, str | None], str]] = {
    "another authority": (HOST_NAME, {"sslrootcert": "other.crt"}, "SSL error: certificate verify failed"),
    "another host name": ("127.0.0.1", {}, 'does not match host name "127.0.0.1"'),
    "no certificate of ours": (HOST_NAME, {"sslcert": None, "sslkey": None}, "requires a valid client certificate"),
    "no TLS": (
        HOST_NAME,
        {"sslmode": "disable", "sslrootcert": None, "sslcert": None, "sslkey": None},
        "no encryption",
    ),
}


@pytest.mark.parametrize("what", OF_DATABASES)
def test_a_database_that_is_not_trusted_or_does_not_trust_us_is_named_in_one_line(
    encrypted: EncryptedStack, monkeypatch: pytest.MonkeyPatch, what: str
):
    Authority(encrypted.folder, "other")
    host, changes, why = OF_DATABASES[what]
    options = encrypted.postgres.options | changes
    options = {
        name: value.replace("other.crt", str(encrypted.folder / "other.crt"))
        for name, value in options.items()
        if value
    }
    monkeypatch.setattr(encrypted.postgres, "options", options)
    urls = {service: encrypted.postgres.url(service).replace(f"@{HOST_NAME}", f"@{host}") for service in SERVICES}
    monkeypatch.setattr(encrypted, "database_url", urls.__getitem__)
    for command in ("migrate", "pending"):
        done = nameko_hw(encrypted, command)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "does not answer" in line and why in line, line


#: The same of the broker.
OF_BROKERS = {
    "another authority": ("authority.crt", "other.crt", "localhost: its certificate is refused: "),
    "another host name": (f"@{HOST_NAME}", "@127.0.0.1", "127.0.0.1: its certificate is refused: IP address mismatch"),
    "no certificate of ours": ("client", "", "localhost: TLS failed: "),
    "no TLS": ("amqps://", "amqp://", ""),
}


@pytest.mark.parametrize("what", OF_BROKERS)
def test_a_broker_that_is_not_trusted_or_does_not_trust_us_is_named_in_one_line(
    encrypted: EncryptedStack, monkeypatch: pytest.MonkeyPatch, what: str
):
    Authority(encrypted.folder, "other")
    right, wrong, why = OF_BROKERS[what]
    settings = {"AMQP_URI": encrypted.rabbitmq.uri, **encrypted.rabbitmq.files}
    changed = {name: value.replace(right, wrong) for name, value in settings.items()}
    if not wrong:
        changed |= {"AMQP_CERT_FILE": "", "AMQP_KEY_FILE": ""}
    if what == "no TLS":
        changed = {"AMQP_URI": changed["AMQP_URI"], **dict.fromkeys(encrypted.rabbitmq.files, "")}
    whole = encrypted.environment() | changed
    monkeypatch.setattr(encrypted, "environment", lambda: whole)
    done = nameko_hw(encrypted, "queues", "move")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"nameko-hw: the broker: {why}"), line


def test_a_service_that_trusts_neither_says_why_and_is_not_ready(encrypted: EncryptedStack, tmp_path: Path):
    other, port = Authority(encrypted.folder, "other"), free_port()
    url = encrypted.postgres.url("orders", sslrootcert=str(other.file))
    environment = encrypted.environment() | {
        "AMQP_URI": encrypted.rabbitmq.uri,
        "AMQP_CA_FILE": str(other.file),
        database_variable("orders"): url,
        "WEB_SERVER_ADDRESS": f"127.0.0.1:{port}",
    }
    log = tmp_path / "orders.log"
    with log.open("wb") as output:
        service = subprocess.Popen(
            [NAMEKO, "run", "--config", "config.yaml", f"services.orders.{encrypted.style.name}"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        lines = (
            r"cannot connect to the broker, trying again in [\d.]+ s: localhost: its certificate is refused: ",
            r"not ready: the database: DatabaseAway: SSL error: certificate verify failed",
        )

        def has_said_all() -> bool:
            with Api(f"http://127.0.0.1:{port}") as api:
                api.is_ready()
            return all(re.search(line, log.read_text()) for line in lines)

        wait_for(has_said_all, SAID_S, f"the reasons in {log}")
        with Api(f"http://127.0.0.1:{port}") as api:
            assert api.get("/health/ready").status_code == 503
    finally:
        service.terminate()
        service.wait(30)


def test_certificates_are_renewed_without_a_restart(encrypted: EncryptedStack):
    pids = [encrypted.supervisor.pid(service) for service in SERVICES]
    new = encrypted.folder / "new"
    new.mkdir()
    authority = Authority(new)
    for made in (authority.sign("server", HOST_NAME), authority.sign("client")):
        for file in made:
            shutil.copy(file, encrypted.folder)
    shutil.copy(authority.file, encrypted.folder)
    encrypted.postgres.reload()
    rows(encrypted, "users", END_SESSIONS, services=list(SERVICES))
    encrypted.rabbitmq.control("eval", FORGET)
    wait_for(lambda: takes_users(encrypted), HEALED_S, "the services to be connected again")
    wait_for(encrypted.is_ready, HEALED_S, "the services to be ready")
    order_is_paid(encrypted)
    assert pids == [encrypted.supervisor.pid(service) for service in SERVICES]
    wait_until_quiet(encrypted)
    assert violations(encrypted) == []


def takes_users(stack: EncryptedStack) -> bool:
    """Whether a user can be created, for which users and billing need their databases and the broker."""
    with Api(stack.url) as api:
        return api.post("/users", {"name": "Ada", "email": new_email()}).status_code == 201
