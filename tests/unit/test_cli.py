"""The console command: what it imports, and what its user gets to see of an error."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.local.needs import NotInstalled
from services.local.net import free_port
from services.local.server import CannotStart, FolderInUse
from services.local.stack import ENVIRONMENT_FILE, ROOT, database_variable
from services.ops import cli, running
from services.ops.errors import CommandError
from services.shop import SERVICES

ON_DATABASES = (["audit"], ["pending"], ["outbox", "list"], ["outbox", "list", "--all"], ["dead-letters", "list"])
#: Runs commands one after the other; prints how each ends, then the modules of the local modes that they imported.
RUN = """
import json, sys
from services.ops import cli
for arguments in json.loads(sys.argv.pop()):
    sys.argv[1:] = arguments
    try:
        cli.main()
    except SystemExit as end:
        print(end.code)
    except Exception as error:
        print(type(error).__name__)
print([name for name in sys.modules if name.startswith("services.local")])
"""


def test_commands_in_a_pod_import_no_local_servers_and_name_a_database_that_is_away() -> None:
    away = f"127.0.0.1:{free_port()}"
    databases = {database_variable(service): f"postgresql://postgres@{away}/{service}" for service in SERVICES}
    commands = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([*ON_DATABASES, ["migrate"]])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "AMQP_URI": f"amqp://{away}", **databases},
    )
    *ends, migrate, imported = commands.stdout.splitlines()
    assert len(ends) == len(ON_DATABASES), commands.stderr
    assert all(end.startswith("nameko-hw: a database does not answer") for end in ends)
    assert migrate.startswith("nameko-hw: users: the database does not answer (connection to server at ")
    assert imported == "[]"


@pytest.mark.parametrize("kind", [CannotStart, FolderInUse, NotInstalled, CommandError, TimeoutError])
def test_an_error_that_the_user_can_mend_is_one_line(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: Namespace) -> None:
        raise kind("this is how to mend it")

    monkeypatch.setattr(cli, "parser", lambda: SimpleNamespace(parse_args=lambda: Namespace(command=fail)))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="^nameko-hw: this is how to mend it$"):
        cli.main()


def test_the_stack_that_runs_is_found_by_the_file_that_it_leaves(tmp_path: Path) -> None:
    assert running.environment(tmp_path) == {}
    (tmp_path / ENVIRONMENT_FILE).write_text(json.dumps({"AMQP_URI": "amqp://here"}))
    assert running.environment(tmp_path) == {"AMQP_URI": "amqp://here"}
