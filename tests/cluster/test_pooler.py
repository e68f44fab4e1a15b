"""The chart with its databases elsewhere, behind a PgBouncer in transaction mode.

PGBOUNCER_IMAGE   the tag of an image with PgBouncer that the nodes have; without it these tests are skipped
"""

import base64
import os
from collections.abc import Iterator

import pytest

from services.shop import SERVICES
from tests.chart.objects import NAMESPACE, RELEASE, Object, render
from tests.cluster.conftest import INSTALL_S, Cluster, empty
from tests.cluster.load import Load

ELSEWHERE = "elsewhere"
DATABASE = f"{ELSEWHERE}-postgres"
POOLER = "pooler"
PORT = 6432
UID = 10001
CONNECTIONS = 5  # to the server, for each service: two pods of one could open 48
FORCE = ["--force", "--grace-period=0"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a server, a pooler and the chart, which knows no more of both than a Secret."""
    image = os.environ.get("PGBOUNCER_IMAGE")
    if not image:
        build = r"printf 'FROM debian:trixie-slim\nRUN apt-get update && apt-get install -y pgbouncer\n'"
        pytest.skip(f"PGBOUNCER_IMAGE is the tag of no image; to build one: {build} | docker build --tag pgbouncer -")
    with empty() as running:
        running.kubectl("create", "namespace", NAMESPACE)
        server = database(running)
        [secret] = [one for one in server if one["kind"] == "Secret"]
        passwords = {name: password_of(secret, name) for name in SERVICES}
        running.apply([*server, *pooler(image, passwords), urls(passwords)])
        running.wait_until_ready()
        running.values |= {
            "postgres": {"enabled": False},
            "externalDatabase": {"existingSecret": "urls", "pooler": True},
            "audit": {"enabled": True},
        }
        running.install()
        yield running


def database(cluster: Cluster) -> list[Object]:
    """The PostgreSQL that the chart would install, under another name, so that it belongs to no release."""
    values = {**cluster.values, "fullnameOverride": ELSEWHERE, "nameOverride": ELSEWHERE}
    kinds = {"StatefulSet", "Service", "ServiceAccount", "ConfigMap", "Secret"}
    return [one for one in render(values) if one["metadata"]["name"] == DATABASE and one["kind"] in kinds]


def password_of(secret: Object, service: str) -> str:
    return base64.b64decode(secret["data"][f"{service}-password"]).decode()


def urls(passwords: dict[str, str]) -> Object:
    """What the chart is given: for each service the way through the pooler, and the one past it."""
    data = {}
    for service, password in passwords.items():
        data[f"{service}-url"] = f"postgresql://{service}:{password}@{POOLER}:{PORT}/{service}"
        data[f"{service}-direct-url"] = f"postgresql://{service}:{password}@{DATABASE}:5432/{service}"
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "urls"}, "stringData": data}


def pooler(image: str, passwords: dict[str, str]) -> list[Object]:
    settings = {
        "listen_addr": "*",
        "listen_port": PORT,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": "/config/users.txt",
        "pool_mode": "transaction",
        "default_pool_size": CONNECTIONS,
        "query_wait_timeout": 3,
        "server_login_retry": 1,
    }
    lines = [
        "[databases]",
        f"* = host={DATABASE}",
        "[pgbouncer]",
        *(f"{name} = {value}" for name, value in settings.items()),
    ]
    files = {
        "pgbouncer.ini": "\n".join(lines),
        "users.txt": "\n".join(f'"{name}" "{password}"' for name, password in passwords.items()),
    }
    labels = {"app.kubernetes.io/component": POOLER}
    container = {
        "name": POOLER,
        "image": image,
        "command": ["/usr/sbin/pgbouncer", "/config/pgbouncer.ini"],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    pod = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": UID},
        "containers": [container],
        "volumes": [{"name": "config", "secret": {"secretName": POOLER}}],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    service = {"selector": labels, "ports": [{"port": PORT, "protocol": "TCP"}]}
    metadata = {"name": POOLER}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": files},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
    ]


def test_helm_test_plays_the_scenario(cluster: Cluster):
    logs = cluster.config.test(RELEASE, timeout=INSTALL_S, logs=True)["logs"]
    assert "PASSED: 8 of 8 steps hold" in logs


@pytest.mark.parametrize("component", [POOLER, "postgres"])
@pytest.mark.parametrize("force", [[], FORCE], ids=["deleted", "killed"])
def test_while_the_pooler_or_the_database_is_away_the_only_other_answer_is_503_with_retry_after(
    cluster: Cluster, component: str, force: list[str]
):
    with Load(cluster.url) as load:
        cluster.kubectl("delete", "pod", *force, next(iter(cluster.pods(component))))
        cluster.wait_until_ready()
        load.goes_on()
    print(f"{component}: {load.longest_pause_s():.1f} s, {len(load.failures)} x 503 of {load.orders} orders")
    assert load.wrong == []


def test_the_server_has_the_connections_of_the_pooler_and_not_those_of_the_pods(cluster: Cluster):
    with Load(cluster.url) as load:
        load.goes_on()
        query = "select usename, count(*) from pg_stat_activity where usename <> 'postgres' group by usename"
        psql = ["psql", "--username", "postgres", "--tuples-only", "--csv", "--command", query]
        counts = cluster.kubectl("exec", f"{DATABASE}-0", "--", *psql).split()
    of_services = {name: int(count) for name, _, count in (line.partition(",") for line in counts)}
    assert of_services.keys() == set(SERVICES)
    assert max(of_services.values()) <= CONNECTIONS + 1  # and the audit, which goes past it


def test_the_audit_finds_the_books_of_all_this_clean(cluster: Cluster):
    [auditor] = cluster.pods("audit")
    assert "clean: no violations" in cluster.kubectl("exec", auditor, "--", "nameko-hw", "audit")
