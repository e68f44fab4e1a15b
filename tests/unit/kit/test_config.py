"""A wrong configuration stops the start with one line that names the key and keeps its secrets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nameko.cli.main import setup_yaml_parser

from services.kit.config import BadConfiguration, Settings, check
from services.kit.db.connecting import with_driver
from services.local.stack import ROOT

setup_yaml_parser()


def config() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def test_the_defaults_are_good():
    assert check(config()).max_workers == 100


@pytest.mark.parametrize(
    "key, value",
    [
        ("RPC_TIMEOUT_S", 0),
        ("RPC_TIMEOUT_S", "soon"),
        ("max_workers", 0),
        ("max_workers", 1.5),
        ("DB_CONNECTIONS", 0),
        ("AMQP_URI", "http://x"),
        ("AMQP_URI", None),
        ("AMQP_URI", "amqp://one;http://two"),
        ("AMQP_URI", "amqp://one;"),
        ("AMQP_URI", "amqp://one:99999"),
        ("QUEUE_TYPE", "stream"),
        ("WEB_SERVER_ADDRESS", "127.0.0.1"),
        ("WEB_SERVER_ADDRESS", "x:99999"),
        ("BODY_LIMIT_BYTES", -1),
        ("EVENT_RETRY_PAUSES_S", []),
        ("EVENT_RETRY_PAUSES_S", [-1]),
        ("DB_URIS", {"orders:Base": "mysql://x"}),
        ("RECOVERY_AFTER_S", 1),
        ("OUTBOX_LEASE_S", 1),
        ("INBOX_LEASE_S", 1),
        ("ACCOUNT_WAIT_S", 1),
        ("MAX_CALLS", 0),
        ("SERVICE_URLS", None),
        ("SERVICE_URLS", {"billing": 8000}),
        ("SERVICE_URLS", {"billing": "billing:8000"}),
        ("SERVICE_URLS", {"billing": "ftp://billing"}),
        ("SERVICE_URLS", {"billing": "http://"}),
        ("SERVICE_URLS", {"billing": "http://:8000"}),
        ("SERVICE_URLS", {"billing": "http://billing:99999"}),
        ("SERVICE_URLS", {"billing": "http://[::1"}),
        ("SERVICE_URLS", {"billing": "http://billing/?of=mine"}),
        ("SERVICE_URLS", {"billing": "http://billing\n"}),
        ("AUTH", "on"),
        ("AUTH_JWKS", "http://login.example.com/jwks"),
        ("AUTH_JWKS", "ftp://login.example.com/jwks"),
        ("AUTH_KEY", "two words"),
        ("AUTH_LEEWAY_S", 3600),
        ("INTERNAL_TOKEN", "short"),
        ("RATE_LIMIT", -1),
        ("RATE_LIMIT", "600/60"),
        ("RATE_LIMIT_WINDOW_S", 0.5),
        ("MAX_CONNECTIONS_PER_ADDRESS", -1),
        ("MAX_CONNECTIONS_PER_ADDRESS", 50),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
        ("TRUSTED_PROXIES", ["10.0.0.1/8"]),
        ("TRUSTED_PROXIES", ["proxy.example.com"]),
        ("TRUSTED_PROXIES", ["0.0.0.0/0"]),
        ("SPELLED_WRONG", 1),
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(BadConfiguration) as caught:
        check(config() | {key: value})
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


NOWHERE = "http://127.0.0.1:1"
JWT = {"AUTH": "jwt", "AUTH_JWKS": "https://login.example.com/jwks", "AUTH_ISSUER": "x", "AUTH_AUDIENCE": "y"}
LONG = "k" * 32


@pytest.mark.parametrize(
    "key, wrong",
    [
        ("AUTH_JWKS", {"AUTH_JWKS": None}),
        ("AUTH_JWKS", {"AUTH_KEY": LONG}),
        ("AUTH_ISSUER", {"AUTH_ISSUER": None}),
        ("AUTH_AUDIENCE", {"AUTH_AUDIENCE": ""}),
        ("AUTH_ALGORITHMS", {"AUTH_ALGORITHMS": ["none"]}),
        ("AUTH_ALGORITHMS", {"AUTH_ALGORITHMS": ["RS256", "HS256"]}),
        ("AUTH_ALGORITHMS", {"AUTH_JWKS": None, "AUTH_KEY": LONG, "AUTH_ALGORITHMS": ["RS256"]}),
        ("AUTH_KEY", {"AUTH_JWKS": None, "AUTH_KEY": LONG[1:]}),
        ("AUTH_KEY", {"AUTH_JWKS": None, "AUTH_KEY": LONG, "AUTH_ALGORITHMS": ["HS256", "HS512"]}),
    ],
)
def test_what_tokens_need_is_named_if_it_is_missing_or_does_not_fit(key, wrong):
    assert check(config() | JWT).algorithms == ["RS256", "ES256", "EdDSA"]
    with pytest.raises(BadConfiguration, match=f"^config.yaml: {key}: ") as caught:
        check(config() | JWT | wrong)
    assert "\n" not in str(caught.value) and LONG[1:] not in str(caught.value)


def test_a_secret_is_text_whatever_it_looks_like_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("INTERNAL_TOKEN", "1" * 40)
    settings = check(config())
    assert settings.INTERNAL_TOKEN.get_secret_value() == "1" * 40
    assert "1" * 40 not in repr(settings)


@pytest.mark.parametrize("start", ["[", "'", "*", "!", "%", "x: y: "])
@pytest.mark.parametrize("name", ["AMQP_URI", "ORDERS_DATABASE_URL"])
def test_what_may_hold_a_password_is_not_read_as_yaml_which_would_show_it_in_errors(monkeypatch, name, start):
    monkeypatch.setenv(name, f"{start}hunter2")
    with pytest.raises(BadConfiguration) as caught:
        check(config())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://billing:8000", "https://shop.test/billing/", "http://[::1]:8000", "", None])
def test_an_address_of_a_service_may_be_empty(url):
    assert check(config() | {"SERVICE_URLS": {"billing": url}}).SERVICE_URLS == {"billing": url}


def test_a_missing_key_is_named():
    incomplete = config()
    del incomplete["DB_TIMEOUT_S"]
    with pytest.raises(BadConfiguration, match="DB_TIMEOUT_S"):
        check(incomplete)


@pytest.mark.parametrize(
    "key, value",
    [
        ("AMQP_URI", "http://user:hunter2@host"),
        ("AMQP_URI", "amqp://user:hunter2/x@host"),
        ("AMQP_URI", "amqp://user:hunter2#x@host"),
        ("AMQP_URI", "amqp://one;amqp://user:hunter2?x@host"),
        ("AMQP_URI", "amqp://user:[hunter2@host"),
        ("DB_URIS", {"orders:Base": "postgres//user:hunter2@host"}),
        ("DB_URIS", {"orders:Base": "postgresql+psycopg2://user:x@hunter2@host/orders"}),
        ("SERVICE_URLS", {"billing": "http://user:hunter2@host"}),
    ],
)
def test_a_secret_is_not_repeated(key, value):
    with pytest.raises(BadConfiguration) as caught:
        check(config() | {key: value})
    assert "hunter2" not in str(caught.value)


def test_every_setting_is_in_the_file_and_can_be_set_from_the_environment():
    text = (ROOT / "config.yaml").read_text()
    assert set(config()) == set(Settings.model_fields)
    for name in set(Settings.model_fields) - {
        "SERVICE_CONTAINER_CLS",
        "DB_URIS",
        "SERVICE_URLS",
        "LOGGING",
        "HEARTBEAT",
    }:
        assert re.search(rf"\n{name}: (!raw_env_var )?\$\{{{name.upper()}:", text), name


def refusal_of(service: str, **environment: str) -> str:
    """Start a service in the style `http`, which has to refuse; return what it says."""
    started = subprocess.run(
        [sys.executable, "-m", "nameko", "run", "--config", "config.yaml", f"services.{service}.http"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment, "PYTHONWARNINGS": "ignore::Warning:nameko.cli.commands"},
    )
    assert started.returncode != 0
    return started.stderr.strip()


@pytest.mark.parametrize("service", ["orders", "users"])
def test_a_service_that_calls_others_does_not_start_without_their_addresses(service):
    assert refusal_of(service, USERS_URL=NOWHERE, NOTIFICATIONS_URL=NOWHERE) == (
        "config.yaml: SERVICE_URLS.billing: should be the address of billing, like http://billing:8000; set BILLING_URL"
    )


@pytest.mark.parametrize("service", ["orders", "notifications"])  # of which one only calls, and one is only called
def test_services_that_speak_http_have_a_secret_if_users_have_tokens(service):
    urls = {f"{name.upper()}_URL": NOWHERE for name in ("users", "billing", "notifications")}
    assert refusal_of(service, **urls, **JWT) == (
        "config.yaml: INTERNAL_TOKEN: should be given, as AUTH is jwt and services speak HTTP"
    )


@pytest.mark.parametrize("command", ["run", "stack", "demo", "migrate", "asyncapi"])
def test_a_style_that_is_none_stops_the_start_with_one_line(command, tmp_path: Path):
    started = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "STYLE": "soap", "NAMEKO_HW_FOLDER": str(tmp_path)},
    )
    assert started.returncode == 1
    assert started.stderr.strip() == "nameko-hw: STYLE: 'soap' is no style: it should be one of http, broker, events"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "services.ops.cli", "run", "--port", "0"],
        ["-m", "nameko", "run", "--config", "config.yaml", "services.orders.broker"],
    ],
)
def test_a_service_does_not_start_on_a_wrong_setting(command, tmp_path: Path):
    started = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "RPC_TIMEOUT_S": "-3",
            "NAMEKO_HW_FOLDER": str(tmp_path),
            "PYTHONWARNINGS": "ignore::Warning:nameko.cli.commands",
        },
    )
    assert started.returncode != 0
    assert started.stderr.strip() == "config.yaml: RPC_TIMEOUT_S: Input should be greater than 0"


@pytest.mark.parametrize(
    "given, used",
    [
        ("postgresql://u:p%40@h/db", "postgresql+psycopg2://u:p%40@h/db?target_session_attrs=read-write"),
        (
            "postgresql+psycopg2://u@/db?host=a:5432&host=b:5433",
            "postgresql+psycopg2://u@/db?host=a%3A5432&host=b%3A5433&target_session_attrs=read-write",
        ),
        (
            "postgresql+psycopg2://u@h/db?target_session_attrs=any",
            "postgresql+psycopg2://u@h/db?target_session_attrs=any",
        ),
    ],
)
def test_the_driver_and_a_writable_server_are_spelled_out(given, used):
    assert with_driver(given) == used


def test_the_broker_may_have_several_nodes():
    uris = "amqp://one:5672/shop;amqp://two/shop"
    assert check({**config(), "AMQP_URI": uris, "QUEUE_TYPE": "quorum"}).AMQP_URI == uris
