"""Databases that the chart does not install."""

import yaml

from services.shop import SERVICES
from tests.chart.custom_resources import check
from tests.chart.objects import MATRIX, render
from tests.chart.values_table import CHART


def sources(container: dict) -> dict[str, str]:
    """The key of the Secret behind each variable that has one."""
    return {one["name"]: one["valueFrom"]["secretKeyRef"]["key"] for one in container["env"] if "valueFrom" in one}


def test_services_reach_a_pooler_and_migrations_and_the_audit_go_past_it():
    objects = render(MATRIX["pooler"])
    pods = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"}
    orders, audit = pods["nameko-hw-orders"], pods["nameko-hw-audit"]
    [service], [migration], [auditor] = orders["containers"], orders["initContainers"], audit["containers"]
    assert sources(service)["ORDERS_DATABASE_URL"] == "orders-url"
    assert {"name": "DB_BEHIND_POOLER", "value": "true"} in service["env"]
    for direct in (migration, auditor):
        assert sources(direct)["ORDERS_DATABASE_URL"] == "orders-direct-url"
        assert "DB_BEHIND_POOLER" not in [one["name"] for one in direct["env"]]


def example(name: str) -> list[dict]:
    return list(yaml.safe_load_all((CHART / "examples" / name).read_text()))


def test_the_example_for_cloudnative_pg_is_what_its_operator_takes():
    for one in example("cloudnative-pg.yaml"):
        check(one)


def test_the_cluster_has_a_database_and_a_role_for_each_service():
    [cluster, *databases] = example("cloudnative-pg.yaml")
    secrets = {role["name"]: role["passwordSecret"]["name"] for role in cluster["spec"]["managed"]["roles"]}
    assert secrets == {service: f"{cluster['metadata']['name']}-{service}" for service in SERVICES}
    assert [(one["spec"]["name"], one["spec"]["owner"]) for one in databases] == [(one, one) for one in SERVICES]
    assert {one["spec"]["cluster"]["name"] for one in databases} == {cluster["metadata"]["name"]}


def test_a_commit_waits_for_a_standby_and_none_is_promoted_without_it():
    [cluster, *_] = example("cloudnative-pg.yaml")
    synchronous = cluster["spec"]["postgresql"]["synchronous"]
    assert synchronous == {"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True}
    assert cluster["spec"]["instances"] > 2 * synchronous["number"]


def test_the_server_takes_the_connections_of_all_pods_and_of_one_more_of_each_service():
    [cluster, *_] = example("cloudnative-pg.yaml")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    of_a_pod = values["config"]["DB_CONNECTIONS"] + 4
    pods = len(SERVICES) * (values["defaults"]["replicas"] + 1)
    assert int(cluster["spec"]["postgresql"]["parameters"]["max_connections"]) >= pods * of_a_pod


def test_the_values_of_the_example_install_no_other_postgresql():
    [values] = example("cloudnative-pg-values.yaml")
    objects = render(values)
    assert not [one for one in objects if one["kind"] == "StatefulSet" and "postgres" in one["metadata"]["name"]]
    assert values["externalDatabase"]["existingSecret"] in (CHART / "README.md").read_text()
