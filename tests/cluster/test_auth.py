"""Who may what with `auth.mode: jwt`, in the cluster; and the test of the chart, with a token."""

import secrets
import time
from collections.abc import Iterator

import pytest

from services.kit.web.auth.caller import ADMIN
from services.local.net import wait_for
from tests.chart.objects import NAMESPACE, RELEASE
from tests.client import Api
from tests.cluster.conftest import INSTALL_S, Cluster, empty
from tests.matrix import Matrix, Shop, shop_at
from tests.tokens import AUDIENCE, ISSUER, Provider

SECRET = "keys"


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider(algorithm="HS256")


@pytest.fixture(scope="module")
def cluster(provider: Provider) -> Iterator[Cluster]:
    given = {"auth-key": provider.key, "internal-password": secrets.token_hex(32)}
    given["admin-token"] = provider.token("the-office", ADMIN, exp=int(time.time()) + 3600)
    with empty() as running:
        running.kubectl("create", "namespace", NAMESPACE)
        running.apply(
            [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": given}],
        )
        running.values |= {
            "auth": {"mode": "jwt", "issuer": ISSUER, "audience": AUDIENCE, "existingSecret": SECRET},
        }
        running.install()
        yield running


@pytest.fixture(scope="module")
def shop(cluster: Cluster, provider: Provider) -> Iterator[Shop]:
    with Api(cluster.url) as api:
        wait_for(lambda: api.get("/users").status_code == 401, INSTALL_S, "the ingress to know the pods")
    with shop_at(cluster.url, provider) as shop:
        yield shop


class TestWhoMayWhatInTheCluster(Matrix):
    pass


def test_the_test_of_the_chart_has_its_token(cluster: Cluster):
    logs = cluster.config.test(RELEASE, timeout=INSTALL_S, logs=True)["logs"]
    assert "PASSED: 8 of 8 steps hold" in logs
