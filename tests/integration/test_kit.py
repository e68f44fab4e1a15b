"""The service in the README of the kit, as a reader would try it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
import yaml
from sqlalchemy import create_engine, text

from services.local import broker
from services.local.net import free_port, wait_for
from services.local.postgres import Postgres
from services.local.stack import ROOT
from services.local.supervisor import dies_with_parent

README = ROOT / "services" / "kit" / "README.md"
#: As `nameko run`, with the broker of embedded mode, which is in the process.
NAMEKO = "import eventlet; eventlet.monkey_patch(); import services.local.broker, nameko.cli.main as cli; cli.main()"
START_S, STOP_S = 30, 20


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Postgres]]:
    """The base URL of the running service, and its server of databases."""
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    folder, port = tmp_path_factory.mktemp("notes"), free_port()
    (folder / "notes.py").write_text(code)
    with Postgres(folder / "postgres") as postgres:
        postgres.ensure_databases(["notes"])
        defaults = re.sub(r"(?:!raw_env_var )?\$\{\w+:([^}]*)\}", r"\1", (ROOT / "config.yaml").read_text())
        config = yaml.safe_load(defaults) | {
            "AMQP_URI": broker.URI,
            "WEB_SERVER_ADDRESS": f"127.0.0.1:{port}",
            "SERVICE_CONTAINER_CLS": "notes.NotesContainer",
            "DB_URIS": {"notes:Base": postgres.url("notes")},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "PYTHONWARNINGS": "ignore"}
        make = f"""
import notes, sqlalchemy
engine = sqlalchemy.create_engine({postgres.url("notes")!r})
notes.Base.metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(sqlalchemy.insert(notes.OutboxTransport).values(name="amqp"))
"""
        subprocess.run([sys.executable, "-c", make], check=True, env=environment, cwd=folder)
        with (folder / "notes.log").open("wb") as log:
            process = subprocess.Popen(
                [*dies_with_parent("TERM"), sys.executable, "-c", NAMEKO, "run", "--config", "config.yaml", "notes"],
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        base = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: is_ready(base), START_S, f"the service; see {folder / 'notes.log'}")
            yield base, postgres
        finally:
            process.terminate()
            assert process.wait(STOP_S) == 0, "it drains, and ends"


def is_ready(base: str) -> bool:
    try:
        return requests.get(f"{base}/health/ready", timeout=5).ok
    except requests.RequestException:
        return False


def rows(postgres: Postgres, query: str) -> list[tuple[str, ...]]:
    engine = create_engine(postgres.url("notes"))
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


def test_a_note_and_its_event_are_stored_once_for_each_key(notes: tuple[str, Postgres]):
    base, postgres = notes
    for status, replayed in ((201, None), (201, "true")):
        answer = requests.post(f"{base}/notes", json={"text": "Hello"}, headers={"Idempotency-Key": "one"}, timeout=10)
        assert (answer.status_code, answer.json()) == (status, {"text": "Hello"})
        assert answer.headers.get("Idempotent-Replayed") == replayed
    assert rows(postgres, "select text from notes") == [("Hello",)]
    assert rows(postgres, "select type, body->>'text' from outbox") == [("note_added", "Hello")]


def test_problems_and_metrics_have_the_name_of_the_product(notes: tuple[str, Postgres]):
    base, _ = notes
    answer = requests.post(f"{base}/notes", json={"text": "Bye"}, headers={"Idempotency-Key": "one"}, timeout=10)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:notes:problem:idempotency-key-reused")
    assert requests.post(f"{base}/notes", json={}, timeout=10).json()["errors"][0]["field"] == "text"
    assert "notes_http_request_seconds_count{" in requests.get(f"{base}/metrics", timeout=10).text
