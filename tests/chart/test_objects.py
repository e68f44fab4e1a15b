"""What the chart installs fits together, in every variant that people ask for."""

import base64
import json
import re
from collections import Counter
from functools import cache

import helm_python
import kubernetes_validate
import pytest
import requests
import yaml
from nameko.cli.main import setup_yaml_parser

from services.kit.config import check
from services.kit.tracing import OpenTelemetry, tracer_of
from services.local.stack import ROOT, Stack, database_variable
from services.ops.openapi import document
from services.shop import ROUTES, SERVICES, STYLES, Style, module_of
from tests.chart import custom_resources
from tests.chart.objects import (
    MATRIX,
    NAMESPACE,
    RELEASE,
    Object,
    Objects,
    files,
    objects_in,
    render,
    selects,
    variables,
)
from tests.chart.values_table import CHART

#: What OpenTelemetry reads, and a part of it.
TRACING = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "POD_NAME",
}
#: What libpq reads by itself.
LIBPQ = {"PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"}
POD_NAME = "statefulset.kubernetes.io/pod-name"  # a label that Kubernetes gives
CLUSTERS = ("1.29", kubernetes_validate.latest_version())


@pytest.fixture(scope="module", params=MATRIX)
def objects(request: pytest.FixtureRequest) -> Objects:
    """The chart with each of the sets of values in turn."""
    return render(MATRIX[request.param])


@pytest.fixture(scope="module")
def default() -> Objects:
    return render()


def test_the_chart_has_nothing_to_complain_of():
    report = helm_python.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", CLUSTERS)
def test_kubernetes_takes_every_object(version: str, monkeypatch: pytest.MonkeyPatch):
    # which reads its schemas again for each object
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
    for one in different():
        if custom_resources.is_custom(one):
            custom_resources.check(one)
        else:
            kubernetes_validate.validate(one, version, strict=True)


@cache
def different() -> list[Object]:
    """Every object that any of the sets of values makes, once."""
    texts = {
        re.sub("[0-9a-f]{64}", "checksum", json.dumps(one))
        for values in MATRIX.values()
        for one in render(values)
        if one["kind"] != "Secret"
    }  # of passwords, which differ each time
    return [*map(json.loads, texts), *render().kind("Secret")]


def test_no_two_objects_have_one_name(objects: Objects):
    names = Counter((one["kind"], one["metadata"]["name"]) for one in objects)
    assert [name for name, count in names.items() if count > 1] == []
    assert all(len(one["metadata"]["name"]) <= 63 for one in objects)


def test_selectors_find_their_own_pods(objects: Objects):
    for one in objects.kind("Deployment") + objects.kind("StatefulSet"):
        found = [pod.owner for pod in objects.pods() if selects(one["spec"]["selector"], pod.labels)]
        assert found == [one["metadata"]["name"]]
    for one in objects.kind("PodDisruptionBudget"):
        found = [pod.owner for pod in objects.pods() if selects(one["spec"]["selector"], pod.labels)]
        assert found == [one["metadata"]["name"]]


def test_services_reach_ports_that_their_pods_have(objects: Objects):
    for service in objects.kind("Service"):
        labels = {key: value for key, value in service["spec"]["selector"].items() if key != POD_NAME}
        [pod] = [pod for pod in objects.pods() if selects({"matchLabels": labels}, pod.labels)]
        open_ports = {port["name"] for container in pod.containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports


def test_every_port_states_its_protocol(objects: Objects):
    ports = [port for service in objects.kind("Service") for port in service["spec"]["ports"]]
    ports += [port for pod in objects.pods() for container in pod.containers for port in container.get("ports", [])]
    assert {port["protocol"] for port in ports} == {"TCP"}


def test_autoscalers_aim_at_deployments_that_leave_their_replicas_open(objects: Objects):
    for one in objects.kind("HorizontalPodAutoscaler"):
        target = objects.one("Deployment", one["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
        assert one["spec"]["maxReplicas"] >= one["spec"]["minReplicas"]


@pytest.mark.parametrize(
    "values, autoscaled",
    [
        ("default", 0),
        ("one service autoscaled", 1),
        ("autoscaling", 4),
    ],
)
def test_only_what_is_asked_for_is_autoscaled(values: str, autoscaled: int):
    objects = render(MATRIX[values])
    assert len(objects.kind("HorizontalPodAutoscaler")) == autoscaled
    assert sum(one["spec"].get("replicas") == 2 for one in objects.kind("Deployment")) == 4 - autoscaled


def test_everything_that_a_pod_refers_to_is_there(objects: Objects):
    given = {"databases", "broker", "given", "given-too"}  # by the MATRIX
    for pod in objects.pods():
        for variable in pod.env:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and reference["name"] not in given:
                assert reference["key"] in objects.one("Secret", reference["name"])["data"]
        for container in pod.containers:
            for source in container.get("envFrom", []):
                assert objects.one("ConfigMap", source["configMapRef"]["name"])
            volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
            claims = claims_of(objects, pod.owner)
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes or mount["name"] in claims
                source = volumes.get(mount["name"], {}).get("configMap")
                if source and "subPath" in mount:
                    assert mount["subPath"] in objects.one("ConfigMap", source["name"])["data"]
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                assert objects.one("ConfigMap", volume["configMap"]["name"])
        assert objects.one("ServiceAccount", pod.spec["serviceAccountName"])


def test_every_secret_that_is_mounted_is_given_or_made(objects: Objects):
    known = {"given", "given-too", *(one["spec"]["secretName"] for one in objects.kind("Certificate"))}
    for pod in objects.pods():
        for volume in pod.spec.get("volumes", []):
            assert set(secrets_of(volume)) <= known


def secrets_of(volume: Object) -> list[str]:
    """The Secrets whose files are in a volume."""
    sources = volume.get("projected", {}).get("sources", [])
    whole = [volume["secret"]["secretName"]] if "secret" in volume else []
    return whole + [one["secret"]["name"] for one in sources]


def claims_of(objects: Objects, owner: str) -> set[str]:
    return {
        claim["metadata"]["name"]
        for one in objects.kind("StatefulSet")
        if one["metadata"]["name"] == owner
        for claim in one["spec"].get("volumeClaimTemplates", [])
    }


def test_given_secrets_leave_nothing_to_generate():
    assert render(MATRIX["given secrets"]).kind("Secret") == []


def test_generated_passwords_are_long_and_all_different(default: Objects):
    passwords = [base64.b64decode(value) for secret in default.kind("Secret") for value in secret["data"].values()]
    assert len(set(passwords)) == 2 * (len(SERVICES) + 1)
    assert all(re.fullmatch(rb"[A-Za-z0-9]{32}", password) for password in passwords)


def test_no_secret_stands_in_plain_text(objects: Objects):
    secret = re.compile(r"(?i)password|secret|token")
    for pod in objects.pods():
        for variable in pod.env:
            if secret.search(variable["name"]):
                assert "value" not in variable
            for given in re.findall(r"://[^/@]*:([^@]*)@", variable.get("value", "")):
                assert re.fullmatch(r"\$\(\w+_PASSWORD\)", given)
    for one in objects.kind("ConfigMap"):
        assert not any(secret.search(key) for key in one["data"])


@pytest.mark.parametrize("values", ["default", "tokens, style http", "three brokers"])
def test_what_is_in_a_secret_is_nowhere_else_in_what_helm_prints(values: str):
    printed = files(MATRIX[values])
    [secrets] = [path for path in printed if path.endswith("/secrets.yaml")]
    texts = [text for one in objects_in(printed[secrets]).kind("Secret") for text in one["data"].values()]
    texts += [base64.b64decode(text).decode() for text in texts]
    assert len(texts) > 2 and "helm test" in printed["nameko-hw/templates/NOTES.txt"]
    assert [path for path in printed if path != secrets and any(text in printed[path] for text in texts)] == []


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("values", ["default", "external database", "external broker"])
def test_a_service_knows_only_its_own_secrets(values: str, service: str):
    pod = render(MATRIX[values]).pod(f"{RELEASE}-{service}")
    keys = {variable["valueFrom"]["secretKeyRef"]["key"] for variable in pod.env if "valueFrom" in variable}
    assert keys and keys <= {f"{service}-password", f"{service}-url", f"{service}-uri"}
    names = {variable["name"] for variable in pod.env}
    assert names & {database_variable(one) for one in SERVICES} == {database_variable(service)}


def test_the_audit_knows_all_databases_and_no_broker():
    names = {variable["name"] for variable in render(MATRIX["everything"]).pod(f"{RELEASE}-audit").env}
    assert names == {f"{one.upper()}_DATABASE_{what}" for one in SERVICES for what in ("PASSWORD", "URL")}


def test_the_audit_leaves_out_what_is_young_and_on_demand_what_is_old():
    def command(**values: int) -> list[str]:
        [container] = render({"audit": {"enabled": True} | values}).pod(f"{RELEASE}-audit").containers
        return container["command"]

    assert command() == ["nameko-hw", "audit", "--every", "900", "--older-than", "600"]
    assert command(withinSeconds=1000000)[6:] == ["--within", "1000000"]


def test_the_audit_is_reached_by_whoever_reads_the_metrics_and_by_nobody_else():
    def policy(values: dict) -> dict:
        return render({"audit": {"enabled": True}} | values).one("NetworkPolicy", f"{RELEASE}-audit")["spec"]

    objects = render(MATRIX["everything"])
    audited = [pod.owner for pod in objects.pods() if selects(policy({})["podSelector"], pod.labels)]
    assert audited == [f"{RELEASE}-audit"]
    assert policy({})["policyTypes"] == ["Ingress"] and "ingress" not in policy({})
    [rule] = policy({"serviceMonitor": {"enabled": True}})["ingress"]
    assert rule["from"] == yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]["monitoring"]


@pytest.mark.parametrize("service", SERVICES)
def test_spans_go_nowhere_unless_an_endpoint_is_given(service: str):
    given = {one["name"] for one in render().pod(f"{RELEASE}-{service}").env}
    assert not given & TRACING
    pod = render(MATRIX["tracing"]).pod(f"{RELEASE}-{service}")
    env = {one["name"]: one.get("value") for one in pod.spec["containers"][0]["env"]}
    assert env.keys() >= TRACING
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger.monitoring:4318"
    assert (env["OTEL_TRACES_SAMPLER"], env["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.01")
    assert env["OTEL_RESOURCE_ATTRIBUTES"] == f"k8s.namespace.name={NAMESPACE},k8s.pod.name=$(POD_NAME)"
    names = [one["name"] for one in pod.spec["containers"][0]["env"]]
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")  # only then Kubernetes puts it in
    assert not {one["name"] for one in pod.spec["initContainers"][0]["env"]} & TRACING


@pytest.mark.parametrize("values", ["tracing", "everything"])
def test_services_trace_as_the_chart_says(values: str, monkeypatch: pytest.MonkeyPatch):
    for one in render(MATRIX[values]).pod(f"{RELEASE}-orders").env:
        if one["name"].startswith("OTEL_"):
            monkeypatch.setenv(one["name"], one["value"])
    tracer = tracer_of("orders")  # which refuses what is wrong
    assert isinstance(tracer, OpenTelemetry)
    tracer.stop()


def test_services_may_go_out_to_the_collector_only_when_it_is_given():
    def peers(values: dict) -> list[dict]:
        egress = render(values).one("NetworkPolicy", f"{RELEASE}-services")["spec"]["egress"]
        return [peer for rule in egress for peer in rule.get("to", []) if "namespaceSelector" in peer]

    collector = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]["collector"]
    assert peers({}) == []
    assert peers(MATRIX["tracing"]) == collector
    assert peers(MATRIX["tracing"] | {"networkPolicy": {"collector": []}}) == []  # and not everywhere


OF_TOKENS = [name for name in MATRIX if name.startswith("tokens")]


@pytest.mark.parametrize("values", OF_TOKENS)
def test_services_take_the_tokens_that_the_chart_says(values: str, monkeypatch: pytest.MonkeyPatch):
    objects = render(MATRIX[values])
    for service in SERVICES:
        for one in objects.pod(f"{RELEASE}-{service}").spec["containers"][0]["env"]:
            if one["name"].startswith("AUTH") or one["name"] == "INTERNAL_TOKEN":
                monkeypatch.setenv(one["name"], one.get("value", "s" * 32))
        setup_yaml_parser()
        settings = check(yaml.safe_load((ROOT / "config.yaml").read_text()))
        assert settings.AUTH == "jwt" and bool(settings.AUTH_KEY) == (values == "tokens by a key")
        assert bool(settings.INTERNAL_TOKEN) == (values != "tokens")


def test_the_secret_between_services_is_one_for_all_and_made_only_where_it_is_needed():
    [secret] = [
        one for one in render(MATRIX["tokens, style http"]).kind("Secret") if one["metadata"]["name"].endswith("-auth")
    ]
    assert re.fullmatch(rb"[A-Za-z0-9]{32}", base64.b64decode(secret["data"]["internal-password"]))
    for values in ("default", "style http", "tokens", "tokens by a key"):
        names = {one["metadata"]["name"] for one in render(MATRIX[values]).kind("Secret")}
        assert not any(name.endswith("-auth") for name in names), values


def test_services_may_fetch_the_keys_of_tokens_only_where_they_are_published():
    def ways(values: dict) -> list[dict]:
        egress = render(values).one("NetworkPolicy", f"{RELEASE}-services")["spec"]["egress"]
        to_keys: list[dict] = [{"namespaceSelector": {}}]
        return [
            rule
            for rule in egress
            if rule.get("to") == to_keys or {"port": 443, "protocol": "TCP"} in rule.get("ports", [])
        ]

    assert ways({}) == ways(MATRIX["tokens by a key"]) == []
    assert ways(MATRIX["tokens"]) == [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    there = MATRIX["tokens"] | {"networkPolicy": {"provider": [{"namespaceSelector": {}}]}}
    assert ways(there) == [{"to": [{"namespaceSelector": {}}]}]


def test_services_read_every_variable_that_they_get(objects: Objects):
    for service in SERVICES:
        [pod] = [pod for pod in objects.pods() if pod.labels["app.kubernetes.io/component"] == service]
        given = {variable["name"] for variable in pod.env}
        [config] = [one["configMapRef"]["name"] for one in pod.spec["containers"][0]["envFrom"]]
        given |= set(objects.one("ConfigMap", config)["data"])
        given -= {"STYLE"}  # which the commands read
        given -= TRACING | LIBPQ
        given -= {"AMQP_PASSWORD", f"{service.upper()}_DATABASE_PASSWORD"}  # parts of the URIs
        assert given <= variables()


@pytest.mark.parametrize("values", ["default", "everything"])
def test_services_accept_the_settings_of_the_chart(values: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in render(MATRIX[values]).one("ConfigMap", f"{RELEASE}-orders")["data"].items():
        monkeypatch.setenv(name, value)
    setup_yaml_parser()
    settings = check(yaml.safe_load((ROOT / "config.yaml").read_text()))
    if values == "everything":
        assert (settings.RPC_TIMEOUT_S, settings.BODY_LIMIT_BYTES) == (2.5, 1048576)
        assert settings.EVENT_RETRY_PAUSES_S == [1, 60]
    assert "10.0.0.0/8" in settings.TRUSTED_PROXIES and settings.RATE_LIMIT == (600 if values == "everything" else 0)


def test_a_new_setting_rolls_the_services_that_it_is_for(default: Objects):
    def checksums(objects: Objects) -> dict[str, str]:
        return {name: objects.pod(f"{RELEASE}-{name}").annotations["checksum/config"] for name in SERVICES}

    before = checksums(default)
    one = checksums(render({"services": {"orders": {"config": {"RPC_TIMEOUT_S": 2}}}}))
    everyone = checksums(render({"config": {"RPC_TIMEOUT_S": 2}}))
    assert {name for name in SERVICES if one[name] != before[name]} == {"orders"}
    assert {name for name in SERVICES if everyone[name] != before[name]} == set(SERVICES)


def test_pods_keep_to_the_restricted_standard(objects: Objects):
    for pod in objects.pods():
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        assert all(
            {"configMap", "emptyDir", "projected", "secret"} & volume.keys() for volume in pod.spec.get("volumes", [])
        )
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_no_pod_has_a_token_or_hears_of_other_services(objects: Objects):
    assert all(one["automountServiceAccountToken"] is False for one in objects.kind("ServiceAccount"))
    for pod in objects.pods():
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False


def test_the_dockerfile_and_the_chart_name_one_user(default: Objects):
    [user] = re.findall(r"^USER (\d+):\1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default.pod(f"{RELEASE}-orders").spec["securityContext"]["runAsUser"] == int(user)


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_what_the_service_answers(default: Objects, stack: Stack, service: str):
    [container] = default.pod(f"{RELEASE}-{service}").spec["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health/ready",  # it joins when its database takes writes
        "liveness": "/health/live",
        "readiness": "/health/live",  # and answers by itself when the database is away
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"] for port in container["ports"]}
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert requests.get(f"http://127.0.0.1:{stack.ports[service][0]}{path}", timeout=5).status_code == 200


@pytest.mark.parametrize("drain", [{}, {"preStopSleepSeconds": 10, "timeoutSeconds": 60}])
def test_a_pod_has_the_time_to_drain(drain: dict):
    objects = render({"drain": drain})
    for service in SERVICES:
        spec = objects.pod(f"{RELEASE}-{service}").spec
        sleep, seconds = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        drain_s = objects.one("ConfigMap", f"{RELEASE}-{service}")["data"]["DRAIN_TIMEOUT_S"]
        assert sleep == "sleep"
        assert spec["terminationGracePeriodSeconds"] > int(seconds) + int(drain_s)


def test_a_roll_never_has_fewer_pods_than_before(default: Objects):
    for one in default.kind("Deployment"):
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_pods_spread_and_only_their_own_kind_counts(default: Objects):
    for service in SERVICES:
        pod = default.pod(f"{RELEASE}-{service}")
        for constraint in pod.spec["topologySpreadConstraints"]:
            [found] = [other.owner for other in default.pods() if selects(constraint["labelSelector"], other.labels)]
            assert found == pod.owner


def test_every_pod_migrates_its_own_database_first(default: Objects):
    for service in SERVICES:
        [migrate] = default.pod(f"{RELEASE}-{service}").spec["initContainers"]
        assert f"nameko-hw migrate {service} &&" in migrate["command"][-1]
        assert {variable["name"] for variable in migrate["env"]} >= {database_variable(service)}


def test_the_ingress_has_the_routes_of_the_gateway(default: Objects):
    [rule] = default.one("Ingress", RELEASE)["spec"]["rules"]
    assert rule["host"] == "arch.homework"
    routes = {}
    for path in rule["http"]["paths"]:
        service = default.one("Service", path["backend"]["service"]["name"])
        assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
        assert path["pathType"] == ("Exact" if path["path"] == "/" else "Prefix")
        routes[path["path"].removeprefix("/")] = service["metadata"]["labels"]["app.kubernetes.io/component"]
    internal = routes.pop("internal")
    assert routes == ROUTES
    assert internal not in {path.split("/")[2] for path in json.loads(document(STYLES["http"], internal=True))["paths"]}


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
def test_each_style_runs_its_own_modules_and_hands_the_outboxes_over(style: Style):
    objects = render({"style": style.name})
    for service in SERVICES:
        pod = objects.pod(f"{RELEASE}-{service}")
        assert pod.spec["containers"][0]["command"][-1] == module_of(service, style)
        assert len([one for one in pod.env if one == {"name": "STYLE", "value": style.name}]) == 2
        given = {one["name"] for one in pod.spec["containers"][0]["env"]}
        assert ("AMQP_URI" in given, "BILLING_URL" in given) == (style.has_broker, not style.has_broker)


@pytest.mark.parametrize("values", ["style http", "style http, external database"])
def test_only_http_has_no_broker_at_all(values: str):
    objects = render(MATRIX[values])
    assert "rabbitmq" not in yaml.safe_dump(list(objects)).lower()
    pod = objects.pod(f"{RELEASE}-orders")
    urls = {one["name"]: one["value"] for one in pod.env if one["name"].endswith("_URL") and "value" in one}
    for service in ("users", "billing", "notifications"):
        assert urls[f"{service.upper()}_URL"] == f"http://{RELEASE}-{service}"
        [port] = objects.one("Service", f"{RELEASE}-{service}")["spec"]["ports"]
        assert port["port"] == 80


def test_services_reach_each_other_only_where_they_speak_http(default: Objects):
    def between(objects: Objects) -> tuple[bool, bool]:
        policy = objects.one("NetworkPolicy", f"{RELEASE}-services")["spec"]
        everybody = policy["podSelector"]
        [rule] = policy["ingress"]
        to = [peer for rule in policy["egress"] for peer in rule.get("to", [])]
        return {"podSelector": everybody} in rule["from"], {"podSelector": everybody} in to

    assert between(default) == (False, False)
    assert between(render(MATRIX["style http"])) == (True, True)


def test_the_scenario_reaches_each_service_at_its_own_address(default: Objects):
    addresses = json.loads(default.pod(f"{RELEASE}-test").env[0]["value"])
    assert addresses == {service: f"http://{RELEASE}-{service}" for service in SERVICES}


def test_the_ingress_can_be_left_out():
    objects = render(MATRIX["ingress off"])
    assert objects.kind("Ingress") == []
    [services] = [one for one in objects.kind("NetworkPolicy") if one["metadata"]["name"].endswith("-services")]
    assert len(services["spec"]["ingress"][0]["from"]) == 1


def test_servers_elsewhere_leave_nothing_of_ours():
    for values, server in (("external database", "postgres"), ("external broker", "rabbitmq")):
        objects = render(MATRIX[values])
        assert not [one for one in objects if server in one["metadata"]["name"]]


def test_network_policies_let_in_who_needs_it_and_nobody_else(default: Objects):
    policies = {
        one["metadata"]["name"].removeprefix(f"{RELEASE}-"): one["spec"] for one in default.kind("NetworkPolicy")
    }
    everyone = {pod.labels["app.kubernetes.io/component"]: pod for pod in default.pods()}
    assert everyone.keys() == {*SERVICES, "postgres", "rabbitmq", "test"}
    guarded = {
        name: {component for component, pod in everyone.items() if selects(policy["podSelector"], pod.labels)}
        for name, policy in policies.items()
    }
    assert guarded == {"services": set(SERVICES), "postgres": {"postgres"}, "rabbitmq": {"rabbitmq"}}
    allowed = {
        name: {
            component
            for component, pod in everyone.items()
            for rule in policy["ingress"]
            for peer in rule["from"]
            if "podSelector" in peer and selects(peer["podSelector"], pod.labels)
        }
        for name, policy in policies.items()
    }
    assert allowed == {"services": {"test"}, "postgres": set(SERVICES), "rabbitmq": set(SERVICES)}
    for server in ("postgres", "rabbitmq"):
        assert "Egress" in policies[server]["policyTypes"] and "egress" not in policies[server]
    for policy, spec in policies.items():
        for component in guarded[policy]:
            named = {port["name"] for one in everyone[component].containers for port in one.get("ports", [])}
            assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} <= named


def test_services_may_go_out_to_their_servers_only(default: Objects):
    egress = default.one("NetworkPolicy", f"{RELEASE}-services")["spec"]["egress"]
    ports = {port["port"] for rule in egress for port in rule["ports"]}
    assert ports == {53, "postgresql", "amqp"}
    assert {} in render(MATRIX["external broker"]).one("NetworkPolicy", f"{RELEASE}-services")["spec"]["egress"]


@pytest.mark.parametrize(
    "values, connections",
    [("default", 300), ("one replica", 300), ("more replicas", 400), ("autoscaling", 700)],
)
def test_postgresql_takes_all_connections_that_the_services_may_open(values: str, connections: int):
    [postgres] = render(MATRIX[values]).pod(f"{RELEASE}-postgres").spec["containers"]
    assert postgres["args"] == ["-c", f"max_connections={connections}"]


def test_rabbitmq_is_told_how_much_memory_it_has():
    objects = render({"rabbitmq": {"resources": {"limits": {"memory": "1Gi"}}}})
    conf = objects.one("ConfigMap", f"{RELEASE}-rabbitmq")["data"]["rabbitmq.conf"]
    assert "total_memory_available_override_value = 1GiB\n" in conf


def test_another_name_is_in_every_name_and_address():
    objects = render(MATRIX["other names"])
    assert all(one["metadata"]["name"].startswith("shop") for one in objects)
    values = {variable["name"]: variable.get("value", "") for variable in objects.pod("shop-orders").env}
    assert "@shop-postgres:5432/orders" in values["ORDERS_DATABASE_URL"]
    assert "@shop-rabbitmq:5672/" in values["AMQP_URI"]


def test_nothing_is_said_that_kubernetes_would_leave_out(objects: Objects):
    """An empty list or map is not stored, so each upgrade would count as a change."""
    for one in objects:
        spec = one.get("spec", {}) if one["kind"] != "Issuer" else {}  # whose kind is what it has
        assert not [key for key, value in spec.items() if value in ([], {})], one["metadata"]["name"]


def test_every_object_stays_in_the_namespace_of_the_release(objects: Objects):
    assert {one["metadata"].get("namespace", NAMESPACE) for one in objects} == {NAMESPACE}
    assert not {one["kind"] for one in objects} & {"ClusterRole", "ClusterRoleBinding", "Namespace"}


def test_the_nodes_of_three_brokers_find_each_other_and_the_services_find_all_of_them():
    objects = render(MATRIX["three brokers"])
    [broker] = objects.kind("StatefulSet")[1:]
    name, replicas = broker["metadata"]["name"], broker["spec"]["replicas"]
    nodes = [f"{name}-{number}" for number in range(replicas)]
    assert replicas == 3
    for node in nodes:
        service = objects.one("Service", node)["spec"]
        assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
        assert service["selector"][POD_NAME] == node
    conf = objects.one("ConfigMap", name)["data"]["rabbitmq.conf"]
    assert re.findall(r"classic_config.nodes.\d = (\S+)", conf) == [f"rabbit@{node}" for node in nodes]
    for service in SERVICES:
        [uris] = [one["value"] for one in objects.pod(f"{RELEASE}-{service}").env if one["name"] == "AMQP_URI"]
        assert [re.search("@(.*):5672/", uri)[1] for uri in uris.split(";")] == nodes
        assert objects.one("ConfigMap", f"{RELEASE}-{service}")["data"]["QUEUE_TYPE"] == "quorum"
    assert objects.one("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    policy = objects.one("NetworkPolicy", name)["spec"]
    for peers in ([rule["from"] for rule in policy["ingress"] if "ports" not in rule], [policy["egress"][1]["to"]]):
        [[peer]] = peers  # at any port, as the tools on one node have ports that are not known
        assert selects(peer["podSelector"], objects.pod(name).labels)


def test_one_broker_is_what_it_was_and_its_queues_are_classic(default: Objects):
    [broker] = [one for one in default.kind("StatefulSet") if one["metadata"]["name"].endswith("rabbitmq")]
    assert broker["spec"]["replicas"] == 1 and "podManagementPolicy" not in broker["spec"]
    assert "QUEUE_TYPE" not in default.one("ConfigMap", f"{RELEASE}-orders")["data"]
    assert not default.kind("Service")[-1]["spec"].get("clusterIP")


OPERATOR = ROOT / "helm" / "examples" / "rabbitmq-operator"


def test_the_example_of_the_cluster_operator_fits_the_chart():
    values = yaml.safe_load((OPERATOR / "values.yaml").read_text())
    objects = render(values)
    assert not [one for one in objects if one["metadata"]["name"].endswith("rabbitmq")]
    assert objects.one("ConfigMap", f"{RELEASE}-orders")["data"]["QUEUE_TYPE"] == "quorum"
    cluster = yaml.safe_load((OPERATOR / "cluster.yaml").read_text())
    custom_resources.check(cluster)
    kubernetes_validate.validate(custom_resources.pod_of(cluster), CLUSTERS[-1], strict=True)
    assert cluster["metadata"]["namespace"] == NAMESPACE
    [volume] = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]["volumes"]
    [container] = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][0]["name"] == volume["name"]
    assert (
        f"load_definitions = {container['volumeMounts'][0]['mountPath']}/"
        in cluster["spec"]["rabbitmq"]["additionalConfig"]
    )
