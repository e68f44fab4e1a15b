"""Values: wrong ones are refused with the key named, and all of them are described."""

import json
import re
from typing import Any

import helm_python
import pytest
import yaml

from services.kit.config import Settings
from services.kit.logs import FORMATS
from services.kit.tracing import SAMPLERS
from services.local.stack import ROOT, database_variable
from services.shop import SERVICES
from tests.chart.objects import MATRIX, notes, render, variables
from tests.chart.values_table import CHART, readme, rows

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
#: What the chart itself sets, in other ways than by `config`.
OWN = {
    *("AMQP_URI", "AMQP_CA_FILE", "AMQP_CERT_FILE", "AMQP_KEY_FILE"),
    "WEB_SERVER_ADDRESS",
    "DRAIN_TIMEOUT_S",
    "TRUSTED_PROXIES",
    "DB_BEHIND_POOLER",
    *("AUTH", "AUTH_JWKS", "AUTH_KEY", "AUTH_ALGORITHMS", "AUTH_ISSUER", "AUTH_AUDIENCE", "INTERNAL_TOKEN"),
    *(f"{service.upper()}_URL" for service in SERVICES if service != "orders"),
    *(database_variable(service) for service in SERVICES),
}


@pytest.mark.parametrize(
    "values, named",
    [
        ({"servises": {}}, "servises"),
        ({"style": "soap"}, "/style"),
        ({"services": {"payments": {"routes": ["/payments"]}}}, "payments"),
        ({"services": {"orders": {"replica": 3}}}, "replica"),
        ({"services": {"orders": {"replicas": "three"}}}, "/services/orders/replicas"),
        ({"services": {"orders": {"replicas": -1}}}, "/services/orders/replicas"),
        ({"services": {"orders": {"routes": ["orders"]}}}, "/services/orders/routes/0"),
        ({"defaults": {"resources": {"limits": {"memory": "lots"}}}}, "/defaults/resources/limits/memory"),
        ({"defaults": {"autoscaling": {"cpuPercent": 0}}}, "/defaults/autoscaling/cpuPercent"),
        ({"config": {"RPC_TIMEOUT": 3}}, "RPC_TIMEOUT"),
        ({"config": {"RPC_TIMEOUT_S": 0}}, "/config/RPC_TIMEOUT_S"),
        ({"config": {"MAX_WORKERS": 1.5}}, "/config/MAX_WORKERS"),
        ({"config": {"EVENT_RETRY_PAUSES_S": []}}, "/config/EVENT_RETRY_PAUSES_S"),
        ({"config": {"LOG_LEVEL": "LOUD"}}, "/config/LOG_LEVEL"),
        ({"config": {"LOG_FORMAT": "xml"}}, "/config/LOG_FORMAT"),
        ({"config": {"AMQP_URI": "amqp://guest:guest@elsewhere/"}}, "AMQP_URI"),
        ({"drain": {"timeoutSeconds": 0}}, "/drain/timeoutSeconds"),
        ({"image": {"repository": "UPPER"}}, "/image/repository"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
        ({"trustedProxies": ["0.0.0.0/0"]}, "/trustedProxies/0"),
        ({"ingress": {"host": "http://arch.homework"}}, "/ingress/host"),
        ({"ingress": {"enabled": "yes"}}, "/ingress/enabled"),
        ({"postgres": {"image": {"tag": ""}}}, "/postgres/image/tag"),
        ({"postgres": {"uid": 0}}, "/postgres/uid"),
        ({"postgres": {"password": "hunter2"}}, "password"),
        ({"postgres": {"persistence": {"size": "big"}}}, "/postgres/persistence/size"),
        ({"rabbitmq": {"replicas": 2}}, "/rabbitmq/replicas"),
        ({"config": {"QUEUE_TYPE": "stream"}}, "/config/QUEUE_TYPE"),
        ({"rabbitmq": {"resources": {"limits": {"memory": "512M"}}}}, "/rabbitmq/resources/limits/memory"),
        ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
        ({"audit": {"schedule": "*/15 * * * *"}}, "schedule"),
        ({"audit": {"everySeconds": 0}}, "/audit/everySeconds"),
        ({"audit": {"everySeconds": 3600}}, "/audit/everySeconds"),
        ({"tracing": {"endpoint": "jaeger:4318"}}, "/tracing/endpoint"),
        ({"tracing": {"sampler": "sometimes"}}, "/tracing/sampler"),
        ({"tracing": {"samplerArg": 1.5}}, "/tracing/samplerArg"),
        ({"networkPolicy": {"collector": ["jaeger"]}}, "/networkPolicy/collector/0"),
        ({"alerts": {"enabled": "yes"}}, "/alerts/enabled"),
        ({"auth": {"mode": "on"}}, "/auth/mode"),
        ({"tls": {"postgres": True}}, "/tls/postgres"),
        ({"tls": {"rabbitmq": {"key": "hunter2"}}}, "key"),
        ({"tls": {"certManager": {"issuerRef": {"email": "x"}}}}, "email"),
        ({"auth": {"jwks": "http://login.example.com/jwks"}}, "/auth/jwks"),
        ({"auth": {"algorithms": ["none"]}}, "/auth/algorithms/0"),
        ({"auth": {"key": "hunter2"}}, "key"),
        ({"fullnameOverride": "Shop_1"}, "/fullnameOverride"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, Any], named: str):
    with pytest.raises(helm_python.HelmValuesError) as caught:
        render(values)
    assert f"'{named}'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"postgres": {"enabled": False}}, "externalDatabase.existingSecret: name the Secret with the URLs"),
        (
            {"rabbitmq": {"replicas": 3, "persistence": {"enabled": False}}},
            "rabbitmq.persistence.enabled: several nodes",
        ),
        ({"rabbitmq": {"enabled": False}}, "externalBroker.existingSecret: name the Secret with the URIs"),
        ({"postgres": {"maxConnections": 299}}, "postgres.maxConnections: 299 is too low, the services may open 300"),
        (
            {"config": {"DB_CONNECTIONS": 21}, "postgres": {"maxConnections": 300}},
            "postgres.maxConnections: 300 is too low, the services may open 312",
        ),
        ({"auth": {"mode": "jwt", "jwks": "https://x/jwks", "audience": "y"}}, "auth.issuer: say who signs the tokens"),
        (
            {"auth": {"mode": "jwt", "jwks": "https://x/jwks", "issuer": "x"}},
            "auth.audience: say for whom the tokens are",
        ),
        ({"auth": {"mode": "jwt", "audience": "y", "issuer": "x"}}, "auth.jwks: say where the keys are"),
        ({"tls": {"postgres": {"enabled": True}}}, "tls.postgres.existingSecret: name a Secret with ca.crt"),
        ({"tls": {"rabbitmq": {"enabled": True}}}, "tls.rabbitmq.existingSecret: name a Secret with ca.crt"),
        ({"gateway": {"enabled": True}}, "gateway.parentRefs: name the Gateway"),
        ({"audit": {"enabled": True, "withinSeconds": 2400}}, "audit.withinSeconds: should be above 2400"),
        (
            {
                "services": {"orders": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
                "postgres": {"maxConnections": 900},
            },
            "orders: autoscaling.minReplicas should not be above",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(message)):
        render(values)


@pytest.mark.parametrize("values", MATRIX)
def test_what_people_ask_for_is_accepted(values: str):
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(MATRIX[values])


def test_every_setting_of_the_services_can_be_given_and_no_other():
    assert set(SCHEMA["definitions"]["settings"]["properties"]) == variables() - OWN


def test_a_number_has_the_limits_that_the_services_set():
    ours = Settings.model_json_schema()["properties"]
    given = SCHEMA["definitions"]["settings"]["properties"]
    variable = {"HEARTBEAT": "AMQP_HEARTBEAT_S", "max_workers": "MAX_WORKERS"}
    numbers = {name: one for name, one in ours.items() if one.get("type") in ("number", "integer")}
    assert len(numbers) > 20
    for name in numbers.keys() - OWN:
        its = given[variable.get(name, name)]
        its = SCHEMA["definitions"][its["$ref"].rpartition("/")[2]] if "$ref" in its else its
        assert limits(its) == limits(numbers[name]), name


def limits(schema: dict[str, Any]) -> dict[str, float]:
    return {key: schema[key] for key in ("minimum", "exclusiveMinimum", "maximum") if key in schema}


def test_the_samplers_and_the_formats_of_the_log_are_those_of_the_services():
    assert set(SCHEMA["properties"]["tracing"]["properties"]["sampler"]["enum"]) == set(SAMPLERS)
    assert set(SCHEMA["definitions"]["settings"]["properties"]["LOG_FORMAT"]["enum"]) == set(FORMATS)


def test_the_settings_that_the_chart_repeats_are_those_of_the_services():
    default = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    text = (ROOT / "config.yaml").read_text()
    for name, value in default.items():
        assert f"${{{name}:{value}}}" in text


def test_every_value_is_described():
    described = {path for path, _, _ in rows()}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert [
        path for path in leaves(values) if not any(path == one or path.startswith(f"{one}.") for one in described)
    ] == []


def leaves(values: dict[str, Any], before: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        path = f"{before}{name}"
        found += leaves(value, f"{path}.") if isinstance(value, dict) and value else [path]
    return found


def test_the_readme_lists_every_value_with_its_default():
    assert (CHART / "README.md").read_text() == readme(), "write it anew: python -m tests.chart.values_table"


def test_the_schema_knows_every_value():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(SCHEMA["properties"]) - {"global"} == set(values)
    assert SCHEMA["additionalProperties"] is False


def test_the_notes_say_what_to_do_next():
    text = notes()
    assert "helm test nameko-hw --namespace nameko-hw" in text
    assert "arch.homework" in text and "/etc/hosts" in text
    assert "npx newman run nameko-hw.postman_collection.json --env-var baseUrl=http://arch.homework" in text
    assert "https://shop.test" in notes({"ingress": {"host": "shop.test", "tlsSecret": "it"}})
    assert "/etc/hosts" not in notes(MATRIX["ingress off"])


@pytest.mark.parametrize("values", ["default", "external broker", "no persistence", "other names", "three brokers"])
def test_the_notes_name_the_volumes_that_stay(values: str):
    objects = render(MATRIX[values])
    volumes = {
        f"{claim['metadata']['name']}-{one['metadata']['name']}-{number}"
        for one in objects.kind("StatefulSet")
        for number in range(one["spec"]["replicas"])
        for claim in one["spec"].get("volumeClaimTemplates", [])
    }
    assert set(re.findall(r"data-\S+-\d", notes(MATRIX[values]))) == volumes


def test_the_notes_say_what_there_is_not_without_the_prometheus_operator():
    assert re.findall("WARNING: there is no (\\w+)", notes({"serviceMonitor": {"enabled": True}})) == ["ServiceMonitor"]
    assert re.findall("WARNING: there is no (\\w+)", notes({"alerts": {"enabled": True}})) == ["PrometheusRule"]
    assert "WARNING" not in notes()
