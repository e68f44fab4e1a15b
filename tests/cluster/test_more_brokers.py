"""One node of RabbitMQ becomes three, by the commands of the manual, and the next installation goes on with them."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.client import Api
from tests.cluster.conftest import INSTALL_S, Cluster, empty, manual
from tests.cluster.load import Load
from tests.cluster.test_brokers import BROKER, NODES, queues, three_nodes, wait_until_whole

REPLIES = "rpc.reply-"  # to pods that were stopped; these queues expire


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the chart installed with one node of the broker."""
    with empty() as running:
        running.install()
        yield running


def commands_of_the_manual(cluster: Cluster) -> str:
    """What docs/operations.md says has to be done before the upgrade to three nodes, with the image that runs here."""
    commands, upgrade = "".join(manual("kind: Job", "kubectl delete job")).split("helm upgrade")
    assert f"--set rabbitmq.replicas={len(NODES)}" in upgrade
    image = next(iter(cluster.pods("orders").values()))["spec"]["containers"][0]["image"]
    return re.sub(r"image: \S+", f"image: {image}", commands)


def test_one_node_becomes_three_and_what_waited_is_delivered(cluster: Cluster):
    """The letters of these orders wait in the broker alone: the outboxes have handed them over."""
    with Load(cluster.url) as load:
        cluster.scale("notifications", 0)
        load.goes_on()
        subprocess.run(["bash", "-euc", commands_of_the_manual(cluster)], check=True, timeout=INSTALL_S)
        cluster.values["rabbitmq"] = three_nodes(cluster)
        cluster.upgrade()
        load.goes_on()
    wait_until_whole(cluster)
    types = {one["type"] for name, one in queues(cluster).items() if not name.startswith(REPLIES)}
    assert types == {"quorum"}


def test_the_next_installation_goes_on_with_the_volumes_of_all_nodes(cluster: Cluster):
    """Its nodes trust each other by a new password."""
    with Api(cluster.url) as api:
        user = api.new_user(balance=7)
    cluster.uninstall()
    volumes = {one["metadata"]["name"] for one in cluster.objects("persistentvolumeclaims")}
    assert {f"data-{BROKER}-{number}" for number in range(len(NODES))} < volumes
    cluster.install()
    wait_until_whole(cluster)
    with Api(cluster.url) as api:
        assert api.order(user["id"], 7).json()["status"] == "paid"
