"""A backup of the chart's own PostgreSQL, made under load by the commands of the manual, is restored by them."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client import Api
from tests.cluster.conftest import INSTALL_S, Cluster, empty, manual
from tests.cluster.load import Load

BACKUP, *RESTORE = manual("pg_basebackup", "name: restore}", "purge_queue")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the chart installed, and the audit."""
    with empty() as running:
        running.values["audit"] = {"enabled": True}
        running.install()
        yield running


def run(commands: str, folder: Path) -> None:
    subprocess.run(["bash", "-euc", commands], cwd=folder, check=True, timeout=INSTALL_S)


def nameko_hw(cluster: Cluster, *command: str) -> str:
    """Run a command where the manual says that it is run."""
    return cluster.kubectl("exec", "deployment/nameko-hw-audit", "--", "nameko-hw", *command)


def with_the_image_here(cluster: Cluster, commands: str) -> str:
    """The pod that restores has the image and the user of the database."""
    [pod] = cluster.pods("postgres").values()
    commands = re.sub("image: .+", f"image: {pod['spec']['containers'][0]['image']}", commands)
    return commands.replace(": 70", f": {pod['spec']['securityContext']['runAsUser']}")


def test_all_databases_come_back_as_of_one_moment_and_the_repair_makes_the_books_agree(
    cluster: Cluster, tmp_path: Path
):
    with Api(cluster.url) as api:
        user = api.new_user(balance=100)
        before = api.order(user["id"], 30).json()
        api.letters(user["id"], 1)
        with Load(cluster.url) as load:
            load.goes_on()
            began = datetime.now(UTC)
            run(BACKUP, tmp_path)
            load.goes_on()
        assert (tmp_path / "base.tar").stat().st_size > 10**6
        after = api.order(user["id"], 40)
        assert after.status_code == 201

        run(with_the_image_here(cluster, "".join(RESTORE)), tmp_path)
        cluster.wait_until_ready()
        nameko_hw(cluster, "republish", "--since", (began - timedelta(minutes=15)).isoformat())
        nameko_hw(cluster, "reconcile")
        assert "clean: no violations" in nameko_hw(cluster, "audit", "--patience", "60")

        assert api.get(after.headers["Location"]).status_code == 404  # it is of after the backup
        assert api.get(f"/orders/{before['id']}").json() == before
        assert api.balance(user["id"]) == 70
        assert [one["order_id"] for one in api.letters(user["id"], 1)] == [before["id"]]
        assert api.order(user["id"], 70).json()["status"] == "paid"
        api.letters(user["id"], 2)
