"""Databases that the chart does not install."""

from tests.chart.objects import MATRIX, render


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
