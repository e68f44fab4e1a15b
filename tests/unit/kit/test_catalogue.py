"""Every problem that the code raises is in the catalogue, and a client is never told pydantic's words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from services.contracts import Email
from services.kit.web.catalogue import COMMON, SENTENCES, Says, said_of
from services.kit.web.pages import Limit
from services.local.stack import ROOT
from services.shop import SHOP

KNOWN = {**COMMON, **SHOP.meanings}


def raised() -> Iterator[tuple[str, int | None]]:
    """The name and the status of each problem that is made in the code, if both stand there."""
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem" and len(node.args) > 1:
                status, name = node.args[:2]
                if isinstance(name, ast.Constant):
                    yield name.value, status.value if isinstance(status, ast.Constant) else None


def test_every_problem_is_in_the_catalogue_with_its_status():
    made = set(raised())
    assert len(made) > 10
    for name, status in made:
        assert name in KNOWN, name
        assert status in (None, KNOWN[name].status, 400), name


@pytest.mark.parametrize("name", KNOWN)
def test_a_meaning_is_a_sentence(name: str):
    assert (KNOWN[name].text.endswith((".", ")")) and KNOWN[name].text[0].isupper()) or name == "not-ready"


def test_the_proxy_of_compose_answers_with_known_problems():
    text = Path(ROOT / "docker" / "nginx.conf").read_text()
    named = {part.split('"')[0] for part in text.split("urn:nameko-hw:problem:")[1:]}
    assert named and named <= KNOWN.keys()


def test_each_refusal_is_an_error_of_its_own():
    """One that is raised again and again keeps the frames of all that raised it."""
    refuse = TypeAdapter(Email).validate_python
    errors = []
    for _ in range(2):
        with pytest.raises(ValidationError) as caught:
            refuse("ada")
        errors.append(caught.value)
    [first], [second] = (one.errors() for one in errors)
    assert (first["type"], first["msg"]) == ("email", "should be an e-mail address like ada@example.com")
    assert first == second
    [says] = [one for one in get_args(Email) if isinstance(one, Says)]
    assert not [one for one in vars(says).values() if isinstance(one, Exception)]


def test_every_code_of_a_field_is_documented():
    """Those of the table, and those that stand in the code as an argument."""
    codes = {code for code, _ in SENTENCES.values()} | {"invalid", "taken", "reused"}
    for path in [path for path in (ROOT / "services").rglob("*.py") if "local" not in path.parts]:
        codes |= {
            match[1] or match[2]
            for match in re.finditer(r'Says\("(\w+)"|bad_field\([\w"-]+, "(\w+)"', path.read_text())
        }
    documented = (ROOT / "docs" / "api.md").read_text()
    assert "repeated" in codes and "email" in codes
    assert {code for code in codes if f"`{code}`" not in documented} == set()


@pytest.mark.parametrize(
    "limit, code", [("ten", "integer"), ("-1", "integer"), ("0", "too_small"), ("9" * 20, "too_large")]
)
def test_a_wrong_limit_is_called_what_it_is(limit: str, code: str):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Limit).validate_python(limit)
    [error] = caught.value.errors()
    assert said_of(error)[0] == code
