"""A cluster that the environment gives, and the chart installed in it.

KUBECONFIG   the cluster; without it these tests are skipped
BASE_URL     where its ingress answers for the host of the chart (default: http://arch.homework)
HELM_VALUES  a YAML file with values for this cluster, if it needs any

The image must be where the nodes find it. The namespace must hold no release of ours: the tests remove what they made,
volumes included.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from services.local.net import wait_for
from services.local.stack import ROOT
from tests.chart.objects import NAMESPACE, RELEASE, Object, Values
from tests.chart.values_table import CHART

INSTALL_S = 600
REACHED_S = 3
GONE_S = 300


class Cluster:
    """What kubectl and Helm do in our namespace."""

    def __init__(self, config: helm_python.Config, values: Values) -> None:
        self.config = config
        self.values = values
        self.url = os.environ.get("BASE_URL", "http://arch.homework")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        command = ["kubectl", "--namespace", NAMESPACE, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=INSTALL_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, objects: list[Object]) -> None:
        """Make objects that belong to no release."""
        self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(objects))

    def objects(self, *kinds: str) -> list[Object]:
        items: list[Object] = json.loads(self.kubectl("get", ",".join(kinds), "--output", "json"))["items"]
        return items

    def pods(self, component: str = "") -> dict[str, Object]:
        """The pods that are not ending, by name: all, or those of one component."""
        return {
            pod["metadata"]["name"]: pod
            for pod in self.objects("pods")
            if "deletionTimestamp" not in pod["metadata"]
            and component in ("", pod["metadata"]["labels"].get("app.kubernetes.io/component"))
        }

    def ending(self) -> list[str]:
        """The pods that have been told to end, and still run."""
        return [
            pod["metadata"]["name"]
            for pod in self.objects("pods")
            if "deletionTimestamp" in pod["metadata"]
            and any("running" in one["state"] for one in pod["status"].get("containerStatuses", []))
        ]

    def scale(self, service: str, replicas: int) -> None:
        """Let so many pods of a service run; with 0, return when none is left that finishes what it has."""
        self.kubectl("scale", f"deployment/{RELEASE}-{service}", f"--replicas={replicas}")
        self.wait_until_ready()

    def is_ready(self) -> bool:
        """Whether every workload has all its pods, new and ready, and no other pod runs."""
        for one in self.objects("deployments", "statefulsets"):
            wanted, status = one["spec"]["replicas"], one["status"]
            if status.get("observedGeneration", 0) < one["metadata"]["generation"]:
                return False
            counts = {status.get(count, 0) for count in ("readyReplicas", "updatedReplicas", "replicas")}
            if counts != {wanted}:
                return False
        return not self.ending()

    def state(self) -> str:
        """What a person would look at first."""
        return self.kubectl("get", "pods,persistentvolumeclaims,events", "--output", "wide")

    def wait_until_ready(self) -> None:
        wait_for(self.is_ready, INSTALL_S, "every pod to be ready")

    def install(self, chart: Path = CHART, values: Values | None = None) -> None:
        values = self.values if values is None else values
        self.config.install(chart, RELEASE, values, create_namespace=True, wait="watcher", timeout=INSTALL_S)
        self.wait_until_ready()

    def upgrade(self, **values: Any) -> None:
        self.config.upgrade(CHART, RELEASE, {**self.values, **values}, wait="watcher", timeout=INSTALL_S)
        self.wait_until_ready()

    def reaches(self, pod: str, host: str, port: int) -> bool:
        """Whether a connection from a pod with Python to a port is accepted."""
        code = f"import socket; socket.create_connection(({host!r}, {port}), {REACHED_S})"
        done = subprocess.run(
            ["kubectl", "--namespace", NAMESPACE, "exec", pod, "--", "python", "-c", code],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        assert done.returncode == 0 or "TimeoutError" in done.stderr or "timed out" in done.stderr, done.stderr
        return done.returncode == 0

    def uninstall(self) -> None:
        self.config.uninstall(RELEASE, wait="watcher", timeout=GONE_S)
        wait_for(lambda: not self.objects("pods"), GONE_S, "the pods to be gone")


@contextmanager
def empty() -> Iterator[Cluster]:
    """The cluster, with nothing of ours in it before and after."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    assert shutil.which("kubectl"), "kubectl is needed"
    with helm_python.Config(namespace=NAMESPACE) as config:
        assert config.list(all_states=True) == [], f"the namespace {NAMESPACE} is in use"
        running = Cluster(config, values_in(os.environ.get("HELM_VALUES")))
        try:
            yield running
        except BaseException:
            print(running.state())
            raise
        finally:
            config.uninstall(RELEASE, ignore_not_found=True, wait="watcher", timeout=GONE_S)
            running.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={GONE_S}s")


def manual(*contents: str) -> list[str]:
    """Return those blocks of commands of docs/operations.md in which these texts are, each in exactly one."""
    blocks = re.findall("```\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    found = []
    for content in contents:
        [block] = [one for one in blocks if content in one]
        found.append(block)
    return found


def values_in(file: str | None) -> Values:
    return dict(yaml.safe_load(Path(file).read_text())) if file else {}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the chart installed; after the tests of a module, without it."""
    with empty() as running:
        running.install()
        yield running
