"""The chart with TLS between the services and its servers, by certificates that are given to it."""

from collections.abc import Iterator

import pytest

from services.shop import SERVICES
from tests.certificates import Authority
from tests.chart.objects import NAMESPACE, RELEASE, Object
from tests.cluster.conftest import INSTALL_S, Cluster, empty
from tests.cluster.load import Load

SERVERS = {"postgres": f"{RELEASE}-postgres", "rabbitmq": f"{RELEASE}-rabbitmq"}
PLAIN = """
import os, psycopg2
url = os.environ["ORDERS_DATABASE_URL"].replace("+psycopg2", "", 1)
try:
    psycopg2.connect(url, sslmode="disable")
except psycopg2.OperationalError as error:
    print(error)
"""


def secret(authority: Authority, name: str, host: str) -> Object:
    signed = authority.sign(name, host)
    files = {"ca.crt": authority.file, "tls.crt": signed.certificate, "tls.key": signed.key}
    text = {key: file.read_text() for key, file in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"tls-{name}"}, "stringData": text}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    with empty() as running:
        running.kubectl("create", "namespace", NAMESPACE)
        running.apply([secret(authority, name, host) for name, host in SERVERS.items()])
        running.values |= {
            "tls": {name: {"enabled": True, "existingSecret": f"tls-{name}"} for name in SERVERS},
            "audit": {"enabled": True},
        }
        running.install()
        yield running


def test_helm_test_plays_the_scenario(cluster: Cluster):
    logs = cluster.config.test(RELEASE, timeout=INSTALL_S, logs=True)["logs"]
    assert "PASSED: 8 of 8 steps hold" in logs


def test_every_connection_to_postgresql_is_encrypted(cluster: Cluster):
    query = (
        "select distinct usename, ssl from pg_stat_activity join pg_stat_ssl using (pid) where client_addr is not null"
    )
    said = cluster.kubectl("exec", f"{RELEASE}-postgres-0", "--", "psql", "-U", "postgres", "-Atc", query)
    seen = dict(line.split("|") for line in said.split())
    assert set(SERVICES) <= set(seen) and set(seen.values()) == {"t"}


def test_without_tls_nobody_gets_in(cluster: Cluster):
    pod = next(iter(cluster.pods("orders")))
    assert "no encryption" in cluster.kubectl("exec", pod, "--", "python", "-c", PLAIN)
    assert cluster.reaches(pod, SERVERS["rabbitmq"], 5671)
    assert not cluster.reaches(pod, SERVERS["rabbitmq"], 5672)


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_lost_is_found_again(cluster: Cluster, server: str):
    with Load(cluster.url) as load:
        cluster.kubectl("delete", "pod", f"{RELEASE}-{server}-0", "--force", "--grace-period=0")
        cluster.wait_until_ready()
        load.goes_on()
