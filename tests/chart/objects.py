"""The chart as Helm's own engine renders it, as objects to ask questions of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import helm_python
import yaml

from services.local.stack import ROOT
from tests.chart.values_table import CHART

RELEASE = NAMESPACE = "nameko-hw"

Values = dict[str, Any]
Object = dict[str, Any]

PROVIDER = {"jwks": "https://login.example.com/jwks", "issuer": "https://login.example.com/", "audience": "shop"}
IN_GIVEN_SECRET = {"enabled": True, "existingSecret": "given"}
BY_CERT_MANAGER = {"postgres": {"enabled": True}, "rabbitmq": {"enabled": True}, "certManager": {"enabled": True}}
#: What people set, by what it is about. `{}` is the default.
MATRIX: dict[str, Values] = {
    "default": {},
    "external database": {"postgres": {"enabled": False}, "externalDatabase": {"existingSecret": "databases"}},
    "pooler": {
        "postgres": {"enabled": False},
        "externalDatabase": {"existingSecret": "databases", "pooler": True},
        "audit": {"enabled": True},
    },
    "external broker": {"rabbitmq": {"enabled": False}, "externalBroker": {"existingSecret": "broker"}},
    "three brokers": {"rabbitmq": {"replicas": 3}},
    "given secrets": {"postgres": {"existingSecret": "given"}, "rabbitmq": {"existingSecret": "given-too"}},
    "one replica": {"defaults": {"replicas": 1}},
    "more replicas": {"defaults": {"replicas": 3}},
    "autoscaling": {"defaults": {"autoscaling": {"enabled": True}}},
    "one service autoscaled": {
        "services": {"orders": {"autoscaling": {"enabled": True, "maxReplicas": 3}}},
        "postgres": {"maxConnections": 400},
    },
    "style http": {"style": "http"},
    "style events": {"style": "events"},
    "style http, external database": {
        "style": "http",
        "postgres": {"enabled": False},
        "externalDatabase": {"existingSecret": "databases"},
    },
    "tokens": {"auth": {"mode": "jwt", **PROVIDER}},
    "tokens, style http": {"style": "http", "auth": {"mode": "jwt", **PROVIDER}},
    "tokens by a key": {
        "style": "http",
        "auth": {"mode": "jwt", "issuer": "x", "audience": "y", "existingSecret": "given"},
    },
    "TLS": {"tls": {"postgres": IN_GIVEN_SECRET, "rabbitmq": IN_GIVEN_SECRET}},
    "TLS by cert-manager": {"tls": BY_CERT_MANAGER, "audit": {"enabled": True}},
    "TLS by cert-manager, three brokers": {"tls": BY_CERT_MANAGER, "rabbitmq": {"replicas": 3}},
    "TLS, style http": {"tls": BY_CERT_MANAGER, "style": "http"},
    "TLS, servers elsewhere": {
        "tls": {
            "postgres": IN_GIVEN_SECRET | {"clientSecret": "given-too"},
            "rabbitmq": IN_GIVEN_SECRET | {"clientSecret": "given-too"},
        },
        "postgres": {"enabled": False},
        "externalDatabase": {"existingSecret": "databases"},
        "rabbitmq": {"enabled": False},
        "externalBroker": {"existingSecret": "broker"},
        "audit": {"enabled": True},
    },
    "ingress off": {"ingress": {"enabled": False}},
    "gateway": {"ingress": {"enabled": False}, "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]}},
    "no persistence": {
        "postgres": {"persistence": {"enabled": False}},
        "rabbitmq": {"persistence": {"enabled": False}},
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "tracing": {"tracing": {"endpoint": "http://jaeger.monitoring:4318", "samplerArg": 0.01}},
    "other names": {"fullnameOverride": "shop", "nameOverride": "shop"},
    "everything": {
        "audit": {"enabled": True},
        "serviceMonitor": {"enabled": True},
        "dashboard": {"enabled": True},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
        "tracing": {"endpoint": "https://collector/otlp", "sampler": "parentbased_always_on"},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": f"sha256:{'0' * 64}"},
        "ingress": {"tlsSecret": "certificate", "annotations": {"a": "b"}, "className": ""},
        "config": {
            "RPC_TIMEOUT_S": 2.5,
            "BODY_LIMIT_BYTES": 1048576,
            "EVENT_RETRY_PAUSES_S": [1, 60],
            "RATE_LIMIT": 600,
        },
        "defaults": {
            "podAnnotations": {"note": "x"},
            "podLabels": {"team": "x"},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "priorityClassName": "high",
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        },
        "postgres": {"persistence": {"storageClass": "fast"}, "nodeSelector": {"disk": "fast"}},
        "rabbitmq": {"persistence": {"storageClass": "fast"}, "tolerations": [{"operator": "Exists"}]},
    },
}


@dataclass(frozen=True)
class Pod:
    """A pod, or the template of one, with what its owner is called."""

    owner: str
    kind: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def env(self) -> list[Object]:
        return [variable for container in self.containers for variable in container.get("env", [])]


class Objects(list[Object]):
    """All objects of one rendering."""

    def kind(self, kind: str) -> list[Object]:
        return [one for one in self if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        [found] = [one for one in self.kind(kind) if one["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[Pod]:
        for one in self:
            if one["kind"] == "Pod":
                yield Pod(
                    one["metadata"]["name"],
                    "Pod",
                    one["metadata"]["labels"],
                    one["metadata"]["annotations"],
                    one["spec"],
                )
            elif one["kind"] in ("Deployment", "StatefulSet"):
                template = one["spec"]["template"]
                yield Pod(
                    one["metadata"]["name"],
                    one["kind"],
                    template["metadata"]["labels"],
                    template["metadata"].get("annotations", {}),
                    template["spec"],
                )

    def pod(self, owner: str) -> Pod:
        [found] = [pod for pod in self.pods() if pod.owner == owner]
        return found


def files(values: Values | None = None) -> dict[str, str]:
    """What the templates become, by their paths, without a cluster."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values or {}, name=RELEASE, namespace=NAMESPACE)


def objects_in(*texts: str) -> Objects:
    return Objects(one for text in texts for one in yaml.safe_load_all(text) if one)


def render(values: Values | None = None) -> Objects:
    return objects_in(*(text for path, text in files(values).items() if path.endswith(".yaml")))


def notes(values: Values | None = None) -> str:
    return files(values)["nameko-hw/templates/NOTES.txt"]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector of Kubernetes matches; of the expressions, only `In` is known."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def variables() -> set[str]:
    """The environment variables that config.yaml reads."""
    return set(re.findall(r"\$\{(\w+):", re.sub("#.*", "", (ROOT / "config.yaml").read_text())))
