"""The life of an installation: used, upgraded, rolled back, hurt, removed. In this order."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from services.local.net import wait_for
from services.shop import SERVICES
from tests.acceptance.newman import newman
from tests.chart.objects import NAMESPACE, RELEASE, Object
from tests.client import Api
from tests.cluster.conftest import GONE_S, INSTALL_S, Cluster
from tests.cluster.load import Load

#: What an installation consists of, and what the cluster makes on its own.
KINDS = (
    "deployments",
    "replicasets",
    "statefulsets",
    "services",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "ingresses",
    "networkpolicies",
    "poddisruptionbudgets",
    "pods",
    "persistentvolumeclaims",
)
NOT_OURS = re.compile(r"(secret/default-token-|configmap/kube-root-ca[.]crt|serviceaccount/default$|pod/.*-test$)")


def name_of(one: Object) -> str:
    return f"{one['kind'].lower()}/{one['metadata']['name']}"


def snapshot(cluster: Cluster) -> dict[str, object]:
    """Everything but what Kubernetes itself writes down as time goes by."""
    return {
        name_of(one): (one["metadata"]["uid"], one["metadata"].get("generation"), one.get("data"))
        for one in cluster.objects(*KINDS)
        if not name_of(one).startswith("secret/sh.helm.release")
    }


def test_everything_is_ready_when_the_installation_returns(cluster: Cluster):
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in cluster.pods().values()} == {
        *SERVICES,
        "postgres",
        "rabbitmq",
    }
    assert all(len(cluster.pods(service)) == 2 for service in SERVICES)
    restarts = {
        name: status["restartCount"]
        for name, pod in cluster.pods().items()
        for status in pod["status"]["containerStatuses"]
    }
    assert set(restarts.values()) == {0}, restarts


def test_the_postman_suite_passes_through_the_ingress(cluster: Cluster, tmp_path: Path):
    run = newman(cluster.url, tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]
    assert json.loads((tmp_path / "report.json").read_text())["run"]["failures"] == []


def test_helm_test_plays_the_scenario(cluster: Cluster):
    logs = cluster.config.test(RELEASE, timeout=INSTALL_S, logs=True)["logs"]
    assert "PASSED: 8 of 8 steps hold" in logs
    wait_for(lambda: not cluster.pods("test"), GONE_S, "the pod of the test to be gone")


@pytest.mark.parametrize(
    "path, status",
    [
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/health/ready", 404),
        ("/metrics", 404),
        ("/usersx", 404),
        ("/internal/billing/payments/x", 404),
    ],
)
def test_the_ingress_routes_the_api_and_nothing_else(cluster: Cluster, path: str, status: int):
    assert requests.get(f"{cluster.url}{path}", timeout=10).status_code == status


def test_an_upgrade_with_unchanged_values_changes_nothing(cluster: Cluster):
    before = snapshot(cluster)
    cluster.upgrade()
    assert snapshot(cluster) == before


def test_a_new_setting_rolls_the_pods_and_no_request_fails(cluster: Cluster):
    before = cluster.pods()
    with Load(cluster.url) as load:
        cluster.upgrade(config={"MAX_WORKERS": 19})
        load.goes_on()
    assert load.failures == []
    stayed = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for name, pod in cluster.pods().items()
        if name in before
    }
    assert stayed == {"postgres", "rabbitmq"}


def test_a_rollback_brings_the_old_setting_back_and_no_request_fails(cluster: Cluster):
    with Load(cluster.url) as load:
        cluster.config.rollback(RELEASE, version=1, wait="watcher", timeout=INSTALL_S)
        cluster.wait_until_ready()
        load.goes_on()
    assert load.failures == []
    [settings] = [
        one["data"] for one in cluster.objects("configmaps") if one["metadata"]["name"] == f"{RELEASE}-orders"
    ]
    assert settings["MAX_WORKERS"] == "100"


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_of_a_service_may_be_taken_away_and_no_request_fails(cluster: Cluster, service: str):
    with Load(cluster.url) as load:
        cluster.kubectl("delete", "pod", next(iter(cluster.pods(service))))
        cluster.wait_until_ready()
        load.goes_on()
    assert load.failures == []


@pytest.mark.parametrize("component", [*SERVICES, "postgres", "rabbitmq"])
def test_a_pod_that_is_killed_costs_no_order_no_money_and_no_letter(cluster: Cluster, component: str):
    with Load(cluster.url) as load:
        cluster.kubectl("delete", "pod", "--force", "--grace-period=0", next(iter(cluster.pods(component))))
        cluster.wait_until_ready()
        load.goes_on()


@pytest.mark.parametrize("restart", ["planned", "by an upgrade", "unplanned"])
def test_while_the_database_restarts_the_only_other_answer_is_503_with_retry_after(cluster: Cluster, restart: str):
    with Load(cluster.url) as load:
        if restart == "by an upgrade":
            cluster.upgrade(postgres={"maxConnections": 310})
        else:
            force = ["--force", "--grace-period=0"] if restart == "unplanned" else []
            cluster.kubectl("delete", "pod", *force, next(iter(cluster.pods("postgres"))))
        cluster.wait_until_ready()
        load.goes_on()
    assert load.wrong == []


def test_an_autoscaler_that_is_turned_on_takes_no_pod_away(cluster: Cluster):
    fewest = dict.fromkeys(SERVICES, 2)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            for service in SERVICES:
                fewest[service] = min(fewest[service], len(cluster.pods(service)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Load(cluster.url) as load:
            cluster.upgrade(defaults={"autoscaling": {"enabled": True}}, postgres={"maxConnections": 700})
            load.goes_on()
    finally:
        is_over.set()
        watcher.join()
    assert fewest == dict.fromkeys(SERVICES, 2)
    cluster.upgrade()


STRANGER = "stranger"


@pytest.fixture
def stranger(cluster: Cluster) -> Iterator[str]:
    """A pod in the namespace that is not ours."""
    image = next(iter(cluster.pods("orders").values()))["spec"]["containers"][0]["image"]
    cluster.kubectl("run", STRANGER, f"--image={image}", "--restart=Never", "--command", "--", "sleep", "600")
    try:
        cluster.kubectl("wait", "pod", STRANGER, "--for=condition=Ready", "--timeout=120s")
        yield STRANGER
    finally:
        cluster.kubectl("delete", "pod", STRANGER, "--grace-period=0", "--force")


def test_each_pod_reaches_its_servers_and_nobody_else(cluster: Cluster, stranger: str):
    """Pair by pair. By the addresses of pods, as only those are held back."""
    targets = {
        name: (next(iter(cluster.pods(name).values()))["status"]["podIP"], port)
        for name, port in [*((service, 8000) for service in SERVICES), ("postgres", 5432), ("rabbitmq", 5672)]
    }
    reached = {}
    for name in (*SERVICES, STRANGER):
        pod = next(iter(cluster.pods(name))) if name in SERVICES else stranger
        reached[name] = {target for target, place in targets.items() if cluster.reaches(pod, *place)} - {name}
    assert reached == {**{service: {"postgres", "rabbitmq"} for service in SERVICES}, STRANGER: set()}


@pytest.mark.parametrize("style", ["http", "events", "broker"])
def test_a_change_of_the_style_under_load_costs_no_order_no_money_and_no_letter(cluster: Cluster, style: str):
    with Load(cluster.url) as load:
        cluster.upgrade(style=style)
        load.goes_on()
    servers = {"postgres"} if style == "http" else {"postgres", "rabbitmq"}
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in cluster.pods().values()}
    assert components == {*SERVICES, *servers}


def test_the_audit_finds_the_books_of_all_this_clean(cluster: Cluster):
    cluster.upgrade(audit={"enabled": True, "everySeconds": 1})
    [name] = cluster.pods("audit")

    def verdicts() -> list[str]:
        return [line for line in cluster.kubectl("logs", name).splitlines() if "violation" in line.lower()]

    assert set(wait_for(verdicts, GONE_S, "the first audit to end")) == {"clean: no violations"}


def test_what_is_left_is_what_the_notes_name_and_the_next_installation_goes_on_with_it(cluster: Cluster):
    with Api(cluster.url) as api:
        user = api.new_user(balance=7)
    secrets = {name_of(one): one["data"] for one in cluster.objects("secrets")}
    cluster.uninstall()
    left = {name_of(one) for one in cluster.objects(*KINDS) if not NOT_OURS.match(name_of(one))}
    assert left == {f"persistentvolumeclaim/data-{RELEASE}-{server}-0" for server in ("postgres", "rabbitmq")}
    cluster.install()
    again = {name_of(one): one["data"] for one in cluster.objects("secrets")}
    assert again[f"secret/{RELEASE}-postgres"] != secrets[f"secret/{RELEASE}-postgres"]
    with Api(cluster.url) as api:
        assert api.balance(user["id"]) == 7
        assert api.order(user["id"], 7).json()["status"] == "paid"
    assert cluster.kubectl("get", "namespace", NAMESPACE)
