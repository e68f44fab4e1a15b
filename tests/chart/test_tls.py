"""TLS between the services and their servers, as the chart turns it on."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from nameko.cli.main import setup_yaml_parser

from services.kit import config
from services.local.stack import ROOT
from services.shop import SERVICES
from tests.certificates import Authority
from tests.chart.apiserver import CURRENT, ApiServer
from tests.chart.objects import BY_CERT_MANAGER, MATRIX, RELEASE, Object, Objects, render
from tests.chart.test_clusters import GATEWAY

WITH_TLS = [name for name in MATRIX if name.startswith("TLS")]
OWN_SERVERS = ["TLS", "TLS by cert-manager", "TLS by cert-manager, three brokers"]


def env_of(container: Object) -> dict[str, str]:
    return {one["name"]: one.get("value", "secret") for one in container["env"]}


def clients(objects: Objects) -> list[Object]:
    """Every container that connects to a server."""
    pods = [objects.pod(f"{RELEASE}-{service}") for service in SERVICES]
    pods += [pod for pod in objects.pods() if pod.owner == f"{RELEASE}-audit"]
    return [container for pod in pods for container in pod.containers]


def files_in(objects: Objects, pod: str, mount: str) -> set[str]:
    """Where the files are that a volume brings into a pod."""
    [volume] = [one for one in objects.pod(pod).spec["volumes"] if one["name"] == mount]
    return {
        f"{item['path']}@{one['secret']['name']}"
        for one in volume["projected"]["sources"]
        for item in one["secret"]["items"]
    }


def test_without_it_nothing_is_encrypted_and_no_file_is_mounted():
    chosen = "[0-9a-f]{64}|(?<=: )[0-9A-Za-z+/]{43}="  # checksums and generated passwords may have any letters
    text = re.sub(chosen, "chosen", yaml.safe_dump(list(render())))
    assert "-password: chosen" in text
    assert not re.search(r"tls|ssl|5671|amqps", text, re.I)


@pytest.mark.parametrize("values", WITH_TLS)
def test_whoever_connects_checks_the_server_by_files_that_are_there(values: str):
    objects = render(MATRIX[values])
    for container in clients(objects):
        env = env_of(container)
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        assert (env["PGSSLMODE"], env["PGSSLROOTCERT"]) == ("verify-full", "/tls/postgres/ca.crt")
        assert "/tls/postgres" in mounted
        assert ("AMQP_URI" in env) == ("AMQP_CA_FILE" in env) == ("/tls/rabbitmq" in mounted)
        if "AMQP_URI" in env and values in OWN_SERVERS:
            assert all(urlsplit(uri).scheme == "amqps" for uri in env["AMQP_URI"].split(";"))
            assert all(":5671/" in uri for uri in env["AMQP_URI"].split(";"))


@pytest.mark.parametrize("values", OWN_SERVERS)
def test_the_key_of_a_server_is_with_the_server_alone(values: str):
    objects = render(MATRIX[values])
    for server in ("postgres", "rabbitmq"):
        [volume] = [one for one in objects.pod(f"{RELEASE}-{server}").spec["volumes"] if one["name"] == "tls"]
        assert volume["secret"]["defaultMode"] == 0o440  # PostgreSQL refuses a key that others may read
        for service in SERVICES:
            secret = volume["secret"]["secretName"]
            assert files_in(objects, f"{RELEASE}-{service}", f"{server}-tls") == {f"ca.crt@{secret}"}


@pytest.mark.parametrize("values", OWN_SERVERS)
def test_the_servers_of_the_chart_take_nothing_but_tls(values: str):
    objects = render(MATRIX[values])
    conf = objects.one("ConfigMap", f"{RELEASE}-rabbitmq")["data"]["rabbitmq.conf"]
    assert "listeners.tcp = none\nlisteners.ssl.default = 5671\n" in conf
    hba = objects.one("ConfigMap", f"{RELEASE}-postgres")["data"]["pg_hba.conf"]
    assert [line.split()[0] for line in hba.splitlines()] == ["local", "hostssl"]
    postgres = objects.pod(f"{RELEASE}-postgres").containers[0]
    assert {"ssl=on", "hba_file=/scripts/pg_hba.conf", "ssl_key_file=/tls/tls.key"} <= set(postgres["args"])
    assert {"/tls", "/scripts"} <= {one["mountPath"] for one in postgres["volumeMounts"]}
    policies = yaml.safe_dump(objects.kind("NetworkPolicy"))
    assert policies.count("port: amqps") == 2 and "port: amqp\n" not in policies


def test_a_server_that_is_told_to_read_its_certificates_again_is_told_so_by_a_container_that_can_end():
    [_, sidecar] = render(MATRIX["TLS"]).pod(f"{RELEASE}-postgres").containers
    script = sidecar["command"][-1]
    assert "pg_reload_conf()" in script and script.startswith("trap exit TERM\n")
    assert "$$" not in script and "$(" not in script  # Kubernetes would read these
    assert [one["mountPath"] for one in sidecar["volumeMounts"]] == ["/var/run/postgresql"]


@pytest.mark.parametrize("values", ["TLS by cert-manager", "TLS by cert-manager, three brokers", "TLS, style http"])
def test_certificates_are_made_for_the_names_by_which_servers_are_reached(values: str):
    objects = render(MATRIX[values])
    made = {one["spec"]["secretName"]: one["spec"] for one in objects.kind("Certificate")}
    assert ("nameko-hw-rabbitmq-tls" in made) == (values != "TLS, style http")
    for container in clients(objects):
        env = env_of(container)
        for name, value in env.items():
            if name.endswith("_DATABASE_URL"):
                assert (
                    urlsplit(value.replace("$(", "").replace(")", "")).hostname
                    in made["nameko-hw-postgres-tls"]["dnsNames"]
                )
        for uri in env.get("AMQP_URI", "").split(";"):
            if uri:
                host = urlsplit(uri.replace("$(", "").replace(")", "")).hostname
                assert host in made["nameko-hw-rabbitmq-tls"]["dnsNames"]
    issuers = {one["metadata"]["name"] for one in objects.kind("Issuer")}
    assert {one["issuerRef"]["name"] for one in made.values()} <= issuers
    [authority] = [name for name, one in made.items() if one.get("isCA")]
    assert {"ca": {"secretName": authority}} in [one["spec"] for one in objects.kind("Issuer")]


def test_an_issuer_that_is_given_is_the_only_one():
    issuer = {"name": "company", "kind": "ClusterIssuer"}
    objects = render({"tls": BY_CERT_MANAGER | {"certManager": {"enabled": True, "issuerRef": issuer}}})
    assert objects.kind("Issuer") == []
    assert [one["spec"]["issuerRef"] for one in objects.kind("Certificate")] == [issuer] * 2


def test_servers_elsewhere_may_get_a_certificate_of_ours_or_be_known_to_all():
    objects = render(MATRIX["TLS, servers elsewhere"])
    for service in SERVICES:
        for server in ("postgres", "rabbitmq"):
            files = files_in(objects, f"{RELEASE}-{service}", f"{server}-tls")
            assert files == {"ca.crt@given", "tls.crt@given-too", "tls.key@given-too"}
        env = env_of(objects.pod(f"{RELEASE}-{service}").spec["containers"][0])
        assert (env["PGSSLCERT"], env["PGSSLKEY"]) == ("/tls/postgres/tls.crt", "/tls/postgres/tls.key")
        assert (env["AMQP_CERT_FILE"], env["AMQP_KEY_FILE"]) == ("/tls/rabbitmq/tls.crt", "/tls/rabbitmq/tls.key")
    plain = {"tls": {server: {"enabled": True} for server in ("postgres", "rabbitmq")}}
    objects = render(MATRIX["external database"] | MATRIX["external broker"] | plain)
    [container] = objects.pod(f"{RELEASE}-orders").spec["containers"]
    assert env_of(container)["PGSSLROOTCERT"] == "/etc/ssl/certs/ca-certificates.crt"
    assert "AMQP_CA_FILE" not in env_of(container)
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/tmp"]


def test_services_accept_what_the_chart_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    authority = Authority(tmp_path)
    env = env_of(render(MATRIX["TLS by cert-manager, three brokers"]).pod(f"{RELEASE}-orders").spec["containers"][0])
    for name, value in env.items():
        monkeypatch.setenv(name, value.replace("/tls/rabbitmq/ca.crt", str(authority.file)))
    setup_yaml_parser()
    settings = config.check(yaml.safe_load((ROOT / "config.yaml").read_text()))
    assert settings.AMQP_CA_FILE == str(authority.file)


def test_the_route_may_belong_to_the_listener_of_a_gateway_that_has_the_certificate():
    listener = {"name": "public", "namespace": "gateways", "sectionName": "https"}
    with ApiServer(CURRENT[0], (*CURRENT[1], GATEWAY)) as server:
        objects = server.install({"gateway": {"enabled": True, "parentRefs": [listener]}})
    assert objects.one("HTTPRoute", RELEASE)["spec"]["parentRefs"] == [listener]
