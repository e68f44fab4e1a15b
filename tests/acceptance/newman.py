"""Runs the Postman suite, and saves its responses in the collection: `python -m tests.acceptance.newman`.

Saved is the answer to each request of the scenario, and the first of each other answer that a request of the edges got,
each of its problems included; but none to a HEAD, which has no body, and not the whole description of the API. They are
those of embedded mode in the default style.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from services.local.stack import ROOT

POSTMAN = ROOT / "postman"
COLLECTION = POSTMAN / "nameko-hw.postman_collection.json"
NEWMAN_S = 180
#: An origin that may read answers while they are saved: the variable `origin` of the collection.
ALLOWED = {"CORS_ORIGINS": "[http://shop.example]"}
#: Headers that make an answer another one.
TELLING = {"Idempotent-Replayed", "Preference-Applied"}
#: What is of the connection or the moment rather than of the answer.
LEFT_OUT = {"date", "content-length", "connection", "keep-alive", "server"}
OPENAPI = "/openapi.json"

Json = dict[str, Any]


def newman(url: str, report: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the suite against `url`; what it reports is in the folder `report` as HTML and JSON."""
    npx = shutil.which("npx")
    assert npx, "npm is needed to run the Postman suite"
    return subprocess.run(
        [
            npx,
            "--no-install",
            "newman",
            "run",
            str(COLLECTION),
            "--env-var",
            f"baseUrl={url}",
            "--color",
            "off",
            "--reporters",
            "cli,htmlextra,json",
            "--reporter-htmlextra-export",
            str(report / "report.html"),
            "--reporter-json-export",
            str(report / "report.json"),
            *options,
        ],
        cwd=POSTMAN,
        capture_output=True,
        text=True,
        timeout=NEWMAN_S,
    )


def requests_of(folder: Json) -> Iterator[Json]:
    """Return the requests of a folder, those of the folders in it included."""
    for one in folder["item"]:
        yield from requests_of(one) if "item" in one else [one]


def without_description(request: Json) -> Json:
    return {name: value for name, value in request.items() if name != "description"}


def saved(request: Json, answer: Json) -> Json:
    """Return what the collection keeps of an answer that newman reports."""
    body = bytes(answer["stream"]["data"]).decode() if "stream" in answer else ""
    kind = json.loads(body).get("type", "").rpartition(":")[2] if body else ""
    code = answer["code"]
    phrase = HTTP_STATUS_CODES[code]
    return {
        "name": f"{code} {kind or phrase}",
        "originalRequest": without_description(request),
        "status": phrase,
        "code": code,
        "_postman_previewlanguage": "json",
        "header": [
            {"key": one["key"], "value": one["value"]} for one in answer["header"] if one["key"].lower() not in LEFT_OUT
        ],
        "cookie": [],
        "body": body,
    }


def save(collection: Json, report: Json) -> None:
    """Replace the saved responses of a collection by those of a run."""
    # the last of each request; one that was left out has none
    answers = {one["item"]["id"]: one["response"] for one in report["run"]["executions"] if "response" in one}
    by_name = {one["name"]: answers[one["id"]] for one in requests_of(report["collection"]) if one["id"] in answers}
    scenario, edges = collection["item"]
    for request in requests_of(scenario):
        request["response"] = [saved(request["request"], by_name[request["name"]])]
    seen = set()
    for request in requests_of(edges):
        if request["name"] not in by_name:
            request["response"] = []
            continue
        one = saved(request["request"], by_name[request["name"]])
        telling = {header["key"] for header in one["header"]} & TELLING
        answer = (
            one["name"],
            frozenset(telling),
            request["request"]["method"],
            request["request"]["url"].partition("?")[0],
        )
        is_one = request["request"]["method"] != "HEAD" and not request["request"]["url"].endswith(OPENAPI)
        request["response"] = [one] if is_one and answer not in seen else []
        seen.add(answer)


def main() -> None:
    from tests.conftest import Embedded

    os.environ["STYLE"] = "broker"
    with tempfile.TemporaryDirectory() as folder, Embedded(Path(folder), ALLOWED) as embedded:
        run = newman(embedded.url, Path(folder))
        assert run.returncode == 0, run.stdout[-5000:]
        collection = json.loads(COLLECTION.read_text())
        save(collection, json.loads(Path(folder, "report.json").read_text()))
    COLLECTION.write_text(json.dumps(collection, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
