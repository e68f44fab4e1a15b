"""What the chart makes of the cluster that it finds: its version, and the Secrets of an installation before."""

from collections.abc import Iterator

import pytest
import yaml
from jsonschema import ValidationError

from services.shop import SERVICES
from tests.chart.apiserver import CURRENT, OLDEST, ApiServer
from tests.chart.custom_resources import check, is_custom
from tests.chart.objects import MATRIX, NAMESPACE, RELEASE, Objects, selects
from tests.chart.values_table import CHART


@pytest.fixture
def cluster() -> Iterator[ApiServer]:
    """A current cluster that holds nothing."""
    with ApiServer(*CURRENT) as running:
        yield running


def checksums(objects: Objects) -> dict[str, dict[str, str]]:
    return {pod.owner: pod.annotations for pod in objects.pods()}


@pytest.mark.parametrize(
    "cluster, versions",
    [
        (OLDEST, {"PodDisruptionBudget": "policy/v1beta1", "HorizontalPodAutoscaler": "autoscaling/v1"}),
        (CURRENT, {"PodDisruptionBudget": "policy/v1", "HorizontalPodAutoscaler": "autoscaling/v2"}),
    ],
)
def test_each_kind_is_of_a_version_that_the_cluster_knows(cluster: tuple, versions: dict[str, str]):
    with ApiServer(*cluster) as server:
        objects = server.install(MATRIX["autoscaling"])
    assert {one["kind"]: one["apiVersion"] for one in objects if one["kind"] in versions} == versions
    assert {one["apiVersion"] for one in objects} <= set(server.apis)


OPERATOR = "monitoring.coreos.com/v1"  # the kinds of the Prometheus operator
GATEWAY = "gateway.networking.k8s.io/v1"


@pytest.mark.parametrize("apis, found", [((), 0), ((OPERATOR,), 1)])
def test_objects_for_the_prometheus_operator_are_made_only_where_it_is_known(apis: tuple, found: int):
    with ApiServer(CURRENT[0], CURRENT[1] + apis) as server:
        objects = server.install({"serviceMonitor": {"enabled": True}, "alerts": {"enabled": True}})
        assert {one["kind"] for one in server.install() if one["apiVersion"] == OPERATOR} == set()
    assert len(objects.kind("ServiceMonitor")) == len(objects.kind("PrometheusRule")) == found


def test_what_the_chart_makes_for_operators_and_gateways_is_what_they_take():
    values = {**MATRIX["gateway"], "serviceMonitor": {"enabled": True}, "alerts": {"enabled": True}}
    with ApiServer(CURRENT[0], (*CURRENT[1], OPERATOR, GATEWAY)) as server:
        made = {one["kind"]: one for one in server.install(values) if is_custom(one)}
    assert set(made) == {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
    for one in made.values():
        check(one)
    del made["HTTPRoute"]["spec"]["rules"][0]["backendRefs"][0]["port"]
    with pytest.raises(ValidationError, match="port"):
        check(made["HTTPRoute"])


def test_the_service_monitor_finds_all_services_and_the_audit():
    with ApiServer(CURRENT[0], (*CURRENT[1], OPERATOR)) as server:
        objects = server.install({"serviceMonitor": {"enabled": True}, "audit": {"enabled": True}})
    spec = objects.one("ServiceMonitor", RELEASE)["spec"]
    found = [one for one in objects.kind("Service") if selects(spec["selector"], one["metadata"]["labels"])]
    assert {one["metadata"]["name"] for one in found} == {f"{RELEASE}-{name}" for name in (*SERVICES, "audit")}
    [endpoint] = spec["endpoints"]
    assert all(endpoint["port"] in {port["name"] for port in one["spec"]["ports"]} for one in found)
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "nameko-hw"}]  # which the rules ask for


def test_the_alert_rules_arrive_whole():
    with ApiServer(CURRENT[0], (*CURRENT[1], OPERATOR)) as server:
        rules = server.install({"alerts": {"enabled": True, "labels": {"release": "prometheus"}}}).one(
            "PrometheusRule", RELEASE
        )
    text = (CHART / "files" / "alerts.yaml").read_text()
    missing = "absent(nameko_hw_database_up{"  # which would find the processes of another release
    assert rules["spec"] == yaml.safe_load(text.replace(missing, missing + f'namespace="{NAMESPACE}", '))
    assert text.count(missing) == len(SERVICES)
    assert rules["metadata"]["labels"]["release"] == "prometheus"


def replicas(objects: Objects) -> dict[str, int | None]:
    return {one["metadata"]["name"]: one["spec"].get("replicas") for one in objects.kind("Deployment")}


def test_an_autoscaler_that_is_turned_on_begins_with_the_pods_that_there_are_or_with_its_fewest(cluster: ApiServer):
    for number, one in enumerate(cluster.install().kind("Deployment")):
        cluster.add({**one, "spec": {**one["spec"], "replicas": number}})
    with_autoscalers = cluster.install(MATRIX["autoscaling"])
    assert sorted(replicas(with_autoscalers).values()) == [2, 2, 2, 3]
    assert set(replicas(cluster.install()).values()) == {2}


def test_the_route_of_a_gateway_leads_where_the_ingress_does():
    with ApiServer(CURRENT[0], (*CURRENT[1], GATEWAY)) as server:
        spec = server.install(MATRIX["gateway"]).one("HTTPRoute", RELEASE)["spec"]
        [rule] = server.install().one("Ingress", RELEASE)["spec"]["rules"]
        assert not server.install().kind("HTTPRoute")
    assert spec["hostnames"] == [rule["host"]] and spec["parentRefs"] == [{"name": "public"}]
    routes = {
        (match["path"]["value"], match["path"]["type"].removeprefix("Path"), backend["name"])
        for one in spec["rules"]
        for match in one["matches"]
        for backend in one["backendRefs"]
    }
    assert routes == {
        (one["path"], one["pathType"], one["backend"]["service"]["name"]) for one in rule["http"]["paths"]
    }


def test_an_upgrade_with_unchanged_values_changes_nothing(cluster: ApiServer):
    before = cluster.install()
    for secret in before.kind("Secret"):
        cluster.add(secret)
    assert cluster.install() == before


def test_without_what_the_cluster_holds_passwords_would_be_others(cluster: ApiServer):
    assert checksums(cluster.install()) != checksums(cluster.install())


def test_a_password_that_is_missing_is_added_and_the_others_stay(cluster: ApiServer):
    for secret in cluster.install().kind("Secret"):
        secret["data"].pop("orders-password")
        cluster.add(secret)
    for secret in cluster.install().kind("Secret"):
        kept = next(one for path, one in cluster.objects.items() if path.endswith(f"/{secret['metadata']['name']}"))
        assert kept["data"].items() <= secret["data"].items()
        assert secret["data"].keys() - kept["data"].keys() == {"orders-password"}


def test_a_new_version_of_a_given_secret_rolls_whoever_uses_it(cluster: ApiServer):
    def rolled(version: str) -> dict[str, dict[str, str]]:
        cluster.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "given", "resourceVersion": version}})
        return checksums(
            cluster.install({"postgres": {"existingSecret": "given"}, "rabbitmq": {"existingSecret": "given"}})
        )

    before, same, after = rolled("1"), rolled("1"), rolled("2")
    assert same == before
    changed = {owner for owner in after if after[owner] != before[owner]}
    assert changed == {f"{RELEASE}-{name}" for name in (*SERVICES, "postgres", "rabbitmq")}
