"""Tokens of the local modes: made here, taken here, and by nobody who has keys of his own."""

import os
import stat
import sys
from pathlib import Path

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request

from services.kit.config import check
from services.kit.web.auth.guard import Guard
from services.kit.web.auth.rules import Needs, Rule
from services.local import tokens
from services.local.page.app import Page
from services.ops import cli
from services.ops.configuration import configuration
from tests.unit.local.conftest import HERE, RIGHT

USER = "2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which AUTH is jwt, and no keys are given."""
    monkeypatch.setenv("NAMEKO_HW_FOLDER", str(tmp_path))
    monkeypatch.setenv("AUTH", "jwt")


def request(token: str) -> Request:
    return Request({"HTTP_AUTHORIZATION": f"Bearer {token}"})


def test_the_command_prints_a_token_that_what_runs_here_takes(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nameko-hw", "token", "--sub", USER, "--scope", "orders:read orders:write"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    [token] = capsys.readouterr().out.split()
    for name, value in tokens.settings().items():
        monkeypatch.setenv(name, value)
    guard = Guard(check(configuration()))
    caller = guard.admit(request(token), Needs("orders:write"))
    assert str(caller.user_id) == USER and not caller.sees_all
    assert guard.admit(request(os.environ["INTERNAL_TOKEN"]), Rule.SERVICES)


def test_keys_are_made_once_and_nobody_else_reads_the_private_one(here, tmp_path: Path):
    first, token = tokens.settings(), tokens.admins_token()
    assert token is None, "which services would not take yet"
    assert tokens.settings() == first
    for name in (tokens.PRIVATE, tokens.SECRET):
        assert stat.S_IMODE((tmp_path / "tokens" / name).stat().st_mode) == 0o600
    assert '"d"' not in (tmp_path / "tokens" / tokens.PUBLIC).read_text()
    assert len(list((tmp_path / "tokens").iterdir())) == 3, "nothing else is left"


@pytest.mark.parametrize(
    "given, added",
    [
        ({"AUTH": "off"}, set()),
        ({"AUTH": ""}, set()),
        ({"AUTH_JWKS": "https://login.example.com/jwks", "INTERNAL_TOKEN": "x"}, set()),
        ({"AUTH_KEY": "x" * 32}, {"INTERNAL_TOKEN"}),
        ({}, {"AUTH_JWKS", "AUTH_ISSUER", "AUTH_AUDIENCE", "INTERNAL_TOKEN"}),
    ],
)
def test_keys_that_are_given_are_left_alone(here, tmp_path: Path, given: dict[str, str], added: set[str]):
    environ = {"AUTH": "jwt", "NAMEKO_HW_FOLDER": str(tmp_path), **given}
    assert tokens.settings(environ).keys() == added


def test_the_page_gets_a_token_if_it_was_opened_by_its_url(here, page: Page, monkeypatch):
    client = Client(page)
    assert client.get("/page/status", headers=RIGHT, **HERE).json["token"] is None  # nobody takes one of ours
    for name, value in tokens.settings().items():
        monkeypatch.setenv(name, value)
    assert client.get("/page/status", **HERE).json["token"] is None
    assert client.get("/page/status", headers=RIGHT, **HERE).json["token"].count(".") == 2
