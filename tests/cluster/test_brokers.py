"""The chart with three nodes of RabbitMQ, which lose pods one by one and all at once.

`pytest -rP` shows for how long no order was settled at once.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.local.net import wait_for
from services.shop import SERVICES
from tests.chart.objects import RELEASE
from tests.cluster.conftest import INSTALL_S, Cluster, empty
from tests.cluster.load import Load

BROKER = f"{RELEASE}-rabbitmq"
NODES = [f"{BROKER}-{number}" for number in range(3)]
#: The chart lets a queue that lacks a copy get it within a minute.
COPIES_S = 120
IN_BROKER = ["--container", "rabbitmq", "--"]
FORCE = ["--force", "--grace-period=0"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the chart installed with three nodes of the broker, and the audit."""
    with empty() as running:
        running.values |= {"rabbitmq": three_nodes(running), "audit": {"enabled": True}}
        running.install()
        yield running


def three_nodes(cluster: Cluster) -> dict:
    return {**cluster.values.get("rabbitmq", {}), "replicas": len(NODES)}


def rabbitmqctl(cluster: Cluster, *arguments: str, node: str = NODES[0]) -> Any:
    command = ["rabbitmqctl", "--quiet", *arguments, "--formatter", "json"]
    return json.loads(cluster.kubectl("exec", node, *IN_BROKER, *command))


def queues(cluster: Cluster) -> dict[str, dict]:
    columns = ["name", "type", "members", "online", "leader"]
    return {one["name"]: one for one in rabbitmqctl(cluster, "list_queues", "--vhost", "nameko-hw", *columns)}


def is_whole(cluster: Cluster) -> bool:
    """Whether each node knows all nodes, and each quorum queue has a copy on each node that takes part."""
    names = {f"rabbit@{node}" for node in NODES}
    for node in NODES:
        status = rabbitmqctl(cluster, "cluster_status", node=node)
        if not names == set(status["disk_nodes"]) == set(status["running_nodes"]) or status["partitions"]:
            return False
    quorum = [one for one in queues(cluster).values() if one["type"] == "quorum"]
    return all(names == set(one["members"]) == set(one["online"]) for one in quorum)


def wait_until_whole(cluster: Cluster) -> None:
    wait_for(lambda: is_whole(cluster), COPIES_S, "each queue to have a copy on each node")


def test_three_pods_form_one_cluster_with_a_copy_of_each_queue_on_each(cluster: Cluster):
    wait_until_whole(cluster)
    assert {f"rpc-{service}" for service in ("users", "billing")} < queues(cluster).keys()
    assert {one["type"] for one in queues(cluster).values()} == {"quorum"}


def lose_the_first_pod(cluster: Cluster) -> None:
    cluster.kubectl("delete", "pod", NODES[0])


def leader(cluster: Cluster) -> str:
    """The pod that leads the queue of the requests to billing."""
    return str(queues(cluster)["rpc-billing"]["leader"]).removeprefix("rabbit@")


def lose_the_leader_by_force(cluster: Cluster) -> None:
    cluster.kubectl("delete", "pod", *FORCE, leader(cluster))


def kill_the_leader(cluster: Cluster) -> None:
    """Its process ends without a word, and the container is started again."""
    pod = leader(cluster)
    kill = f'kill -KILL "$(cat /var/lib/rabbitmq/mnesia/rabbit@{pod}.pid)"'
    cluster.kubectl("exec", pod, *IN_BROKER, "sh", "-c", kill)
    wait_for(lambda: restarts(cluster)[pod] == 1, INSTALL_S, "the container to be started again")


def restart_one_by_one(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "restart", f"statefulset/{BROKER}")


def lose_the_first_volume(cluster: Cluster) -> None:
    """As the chart's manual says: a node with nothing is not let in before the others have forgotten it."""
    cluster.kubectl("delete", "persistentvolumeclaim", f"data-{NODES[0]}", "--wait=false")
    cluster.kubectl("delete", "pod", NODES[0])
    # It fails, after having forgotten the node, if the node is starting: the copies of queues cannot be deleted there.
    forget = f"rabbitmqctl forget_cluster_node rabbit@{NODES[0]} || true"
    cluster.kubectl("exec", NODES[1], *IN_BROKER, "sh", "-c", forget)


def restarts(cluster: Cluster) -> dict[str, int]:
    """How often the container of the broker was started again, by pod."""
    statuses = {name: pod["status"].get("containerStatuses", []) for name, pod in cluster.pods("rabbitmq").items()}
    return {name: sum(one["restartCount"] for one in of_pod) for name, of_pod in statuses.items()}


@pytest.mark.parametrize(
    "lose",
    [lose_the_first_pod, lose_the_leader_by_force, kill_the_leader, restart_one_by_one, lose_the_first_volume],
    ids=lambda lose: lose.__name__,
)
def test_one_node_at_a_time_may_be_lost_and_work_goes_on(cluster: Cluster, lose: Callable[[Cluster], None]):
    with Load(cluster.url) as load:
        lose(cluster)
        cluster.wait_until_ready()
        load.goes_on()
    report(lose.__name__, load)
    assert load.wrong == []
    wait_until_whole(cluster)


@pytest.mark.parametrize("force", [[], FORCE], ids=["deleted", "killed"])
def test_all_pods_lost_at_once_find_each_other_again_and_deliver_what_waited(cluster: Cluster, force: list[str]):
    """The letters of these orders wait in the broker alone: the outboxes have handed them over."""
    replicas = len(cluster.pods("notifications"))
    with Load(cluster.url) as load:
        cluster.scale("notifications", 0)
        load.goes_on()
        cluster.kubectl("delete", "pod", *force, *NODES)
        cluster.wait_until_ready()
        load.goes_on()
        cluster.scale("notifications", replicas)
    report(f"all at once, {'killed' if force else 'deleted'}", load)
    assert load.wrong == []
    wait_until_whole(cluster)


def report(what: str, load: Load) -> None:
    print(f"{what}: {load.longest_pause_s():.1f} s, {len(load.failures)} x 503 of {load.orders} orders")


def test_the_audit_finds_the_books_of_all_this_clean(cluster: Cluster):
    [auditor] = cluster.pods("audit")
    assert "clean: no violations" in cluster.kubectl("exec", auditor, "--", "nameko-hw", "audit")
    assert all(len(cluster.pods(service)) == 2 for service in SERVICES)
