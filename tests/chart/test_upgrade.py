"""The chart of 0.1.0 can be upgraded to this one, and an upgrade does not restart the database."""

from typing import Any

import helm_python
import pytest

from tests.chart.objects import MATRIX, NAMESPACE, RELEASE, Object, Objects, Values, objects_in, render
from tests.released import VERSION, unpack

#: What Kubernetes lets nobody change, but for these parts of it.
MAY_CHANGE = {
    "StatefulSet": {
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
    },
    "Deployment": {"replicas", "template", "strategy", "revisionHistoryLimit", "progressDeadlineSeconds"},
}

#: Secrets that are given: those that the chart makes are other ones each time.
GIVEN: Values = {"postgres": {"existingSecret": "given"}, "rabbitmq": {"existingSecret": "given-too"}}
SETS = {name: MATRIX[name] | GIVEN for name in ("default", "no network policies", "other names", "one replica")}


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with helm_python.Chart.load(unpack(tmp_path_factory.mktemp(VERSION)) / "helm") as loaded:
        yield loaded


def name_of(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


@pytest.fixture(params=SETS)
def old_and_new(chart: Any, request: pytest.FixtureRequest) -> tuple[Objects, Objects]:
    files = chart.render(SETS[request.param], name=RELEASE, namespace=NAMESPACE)
    old = objects_in(*(text for path, text in files.items() if path.endswith(".yaml")))
    return old, render(SETS[request.param])


def test_nothing_changes_that_kubernetes_lets_nobody_change(old_and_new: tuple[Objects, Objects]):
    def fixed(objects: Objects) -> dict[tuple[str, str], Any]:
        return {
            name_of(one): {key: value for key, value in one["spec"].items() if key not in MAY_CHANGE[one["kind"]]}
            for one in objects
            if one["kind"] in MAY_CHANGE
        } | {name_of(one): one["spec"].get("clusterIP") for one in objects.kind("Service")}

    old, new = map(fixed, old_and_new)
    assert old.items() <= new.items()


def test_the_pod_of_the_database_stays(old_and_new: tuple[Objects, Objects]):
    """That of the broker need not: while it starts again, orders are answered 202."""
    old, new = (
        [pod for pod in objects.pods() if pod.kind == "StatefulSet" and pod.owner.endswith("-postgres")]
        for objects in old_and_new
    )
    assert old and old == new
