"""The chart of 0.1.0, with its image, is upgraded to this one under load, rolled back, and upgraded again.

OLD_IMAGE   the tag of an image of 0.1.0 that the nodes have; without it these tests are skipped
OLD_VALUES  a YAML file with values for the chart of 0.1.0 in this cluster (default: HELM_VALUES)
"""

import os
from collections.abc import Iterator

import pytest

from tests.chart.objects import RELEASE
from tests.cluster.conftest import INSTALL_S, Cluster, empty, values_in
from tests.cluster.load import Load
from tests.released import COMMIT, VERSION, unpack

#: Without any value Helm would go on with those of the release, and so with the old image.
OUR_IMAGE = {"image": {"tag": "", "digest": ""}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster, with the chart of 0.1.0 installed."""
    tag = os.environ.get("OLD_IMAGE")
    if not tag:
        build = f"git archive {COMMIT} | docker build --tag nameko-hw:{VERSION} -"
        pytest.skip(f"OLD_IMAGE is the tag of no image of {VERSION}; to build one: {build}")
    chart = unpack(tmp_path_factory.mktemp(VERSION)) / "helm"
    with empty() as running:
        values = values_in(os.environ.get("OLD_VALUES")) or running.values
        values = {**values, "image": {**values.get("image", {}), "tag": tag, "digest": ""}}
        running.install(chart, values)
        yield running


def images(cluster: Cluster) -> set[str]:
    """The images of the services that run."""
    return {
        container["image"]
        for pod in cluster.pods().values()
        for container in pod["spec"]["containers"]
        if container["name"] not in ("postgres", "rabbitmq")
    }


def test_an_upgrade_a_rollback_and_another_upgrade_fail_no_request(cluster: Cluster):
    before, database = images(cluster), cluster.pods("postgres").keys()
    with Load(cluster.url) as load:
        cluster.upgrade(**OUR_IMAGE)
        load.goes_on()
        after = images(cluster)
        assert not before & after
        cluster.config.rollback(RELEASE, version=1, wait="watcher", timeout=INSTALL_S)
        cluster.wait_until_ready()
        load.goes_on()
        assert images(cluster) == before
        cluster.upgrade(**OUR_IMAGE, audit={"enabled": True})
        load.goes_on()
        assert images(cluster) == after
    assert load.failures == []
    assert cluster.pods("postgres").keys() == database


def test_the_audit_finds_the_books_of_all_this_clean(cluster: Cluster):
    [auditor] = cluster.pods("audit")
    assert "clean: no violations" in cluster.kubectl("exec", auditor, "--", "nameko-hw", "audit")
