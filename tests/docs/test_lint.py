"""The linters of OpenAPI and AsyncAPI, in docs/lint, have nothing to say about the IDL."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.idl import ASYNCAPI, DOCS, OPENAPI

LINT = DOCS / "lint"
LINT_S = 120
DOCUMENTS = {"openapi": OPENAPI, "asyncapi": ASYNCAPI}


def lint(language: str, *documents: Path) -> subprocess.CompletedProcess:
    npm = shutil.which("npm")
    assert npm and (LINT / "node_modules").exists(), "`make idl` installs the linters, with npm"
    return subprocess.run(
        [npm, "run", "--silent", language, "--", *map(str, documents)],
        cwd=LINT,
        capture_output=True,
        text=True,
        timeout=LINT_S,
    )


@pytest.mark.parametrize("language", DOCUMENTS)
def test_the_linters_find_nothing(language: str) -> None:
    run = lint(language, *DOCUMENTS[language].values())
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("language", DOCUMENTS)
def test_the_linters_find_a_reference_to_nowhere(language: str, tmp_path: Path) -> None:
    good = DOCUMENTS[language]["http" if language == "openapi" else "events"]
    wrong = tmp_path / good.name
    reference = {"openapi": "#/components/schemas/PaymentState", "asyncapi": "#/components/messages/order_placed"}[
        language
    ]
    assert reference in good.read_text()
    wrong.write_text(good.read_text().replace(reference, reference + "-to-nowhere"))
    run = lint(language, wrong)
    assert run.returncode == 1
    assert "to-nowhere" in run.stdout + run.stderr
