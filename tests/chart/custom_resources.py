"""What the APIs of others take, for the fields that the chart and its examples use; anything else is refused.

From the CustomResourceDefinitions in their repositories: CloudNativePG 1.28 and the RabbitMQ Cluster Operator 2
(config/crd/bases), cert-manager (deploy/crds), the Prometheus operator (example/prometheus-operator-crd), and the
standard channel of the Gateway API (config/crd/standard).
"""

from typing import Any

import jsonschema

from tests.chart.objects import Object

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
LABEL: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
HOST: Schema = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
SIZE: Schema = {"type": "string", "pattern": "^[0-9]+[KMGT]i$"}
QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
OF_PODS: Schema = {"type": "object"}  # as it is in a pod of Kubernetes, see `pod_of`


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def some(items: Schema, most: int = 1000) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def kind(api: str, name: str, spec: Schema) -> Schema:
    return fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api},
        kind={"const": name},
        metadata=fields(("name",), name=LABEL, namespace=LABEL, labels={"type": "object"}),
        spec=spec,
    )


RESOURCES = fields(requests=QUANTITIES, limits=QUANTITIES)
PG_ROLE = fields(
    ("name",),
    name=TEXT,
    ensure={"enum": ["present", "absent"]},
    login={"type": "boolean"},
    passwordSecret=fields(("name",), name=TEXT),
)
PG_CLUSTER = fields(
    ("instances",),
    instances=COUNT,
    imageName=TEXT,
    postgresql=fields(
        synchronous=fields(
            ("method", "number"),
            method={"enum": ["any", "first"]},
            number=COUNT,
            dataDurability={"enum": ["required", "preferred"]},
            failoverQuorum={"type": "boolean"},
        ),
        parameters={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    storage=fields(size=SIZE),
    resources=RESOURCES,
    affinity=fields(
        enablePodAntiAffinity={"type": "boolean"},
        podAntiAffinityType={"enum": ["preferred", "required"]},
        topologyKey=TEXT,
    ),
    managed=fields(roles=some(PG_ROLE)),
)
PG_DATABASE = fields(("cluster", "name", "owner"), cluster=fields(("name",), name=TEXT), name=TEXT, owner=TEXT)
RABBITMQ_CLUSTER = fields(
    replicas={"type": "integer", "minimum": 0},
    persistence=fields(storage=SIZE, storageClassName=TEXT),
    resources=RESOURCES,
    affinity=OF_PODS,
    rabbitmq=fields(
        additionalConfig={"type": "string", "maxLength": 2000},
        additionalPlugins=some({"type": "string", "pattern": r"^\w+$", "maxLength": 100}, 100),
    ),
    override=fields(
        statefulSet=fields(
            spec=fields(template=fields(spec=fields(("containers",), containers=some(OF_PODS), volumes=some(OF_PODS))))
        )
    ),
)
CERTIFICATE = fields(
    ("secretName", "issuerRef"),
    secretName=TEXT,
    issuerRef=fields(("name",), name=TEXT, kind=TEXT, group=TEXT),
    isCA={"type": "boolean"},
    commonName={"type": "string", "maxLength": 64},
    dnsNames=some(TEXT),
    duration={"type": "string", "pattern": "^[0-9]+h$"},
    usages=some({"enum": ["digital signature", "server auth", "client auth"]}),
    privateKey=fields(
        algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
        size={"type": "integer"},
        rotationPolicy={"enum": ["Never", "Always"]},
    ),
)
ISSUER = fields(selfSigned={"const": {}}, ca=fields(("secretName",), secretName=TEXT))
PATH: Schema = {"type": "string", "pattern": r"^/(?!.*(//|/\.\.?(/|$)|#|%2[fF]))", "maxLength": 1024}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
SERVICE_MONITOR = fields(
    ("selector", "endpoints"),
    selector=fields(
        matchLabels=TEXTS,
        matchExpressions=some(
            fields(("key", "operator"), key=TEXT, operator={"enum": ["In", "NotIn"]}, values=some(TEXT)),
        ),
    ),
    endpoints=some(
        fields(
            port=TEXT,
            path=TEXT,
            interval=DURATION,
            honorLabels={"type": "boolean"},
            relabelings=some(fields(targetLabel=TEXT, replacement=TEXT)),
        )
    ),
)
PROMETHEUS_RULE = fields(
    groups=some(
        fields(
            ("name",),
            name=TEXT,
            rules=some(
                fields(
                    ("expr",),
                    alert=TEXT,
                    expr={"type": ["string", "integer"]},
                    labels=TEXTS,
                    annotations=TEXTS,
                    **{"for": DURATION},
                )
            ),
        )
    )
)
HTTP_ROUTE = fields(
    parentRefs=some(fields(("name",), name=HOST, namespace=LABEL, sectionName=HOST), 32),
    hostnames=some(HOST, 16),
    rules=some(
        fields(
            matches=some(fields(path=fields(type={"enum": ["Exact", "PathPrefix"]}, value=PATH)), 64),
            backendRefs=some(fields(("name", "port"), name=LABEL, port={"type": "integer", "maximum": 65535}), 16),
        ),
        16,
    ),
)

SCHEMAS = {
    (api, name): kind(api, name, spec)
    for api, name, spec in (
        ("postgresql.cnpg.io/v1", "Cluster", PG_CLUSTER),
        ("postgresql.cnpg.io/v1", "Database", PG_DATABASE),
        ("rabbitmq.com/v1beta1", "RabbitmqCluster", RABBITMQ_CLUSTER),
        ("cert-manager.io/v1", "Certificate", CERTIFICATE),
        ("cert-manager.io/v1", "Issuer", ISSUER),
        ("monitoring.coreos.com/v1", "ServiceMonitor", SERVICE_MONITOR),
        ("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", HTTP_ROUTE),
    )
}


def is_custom(one: Object) -> bool:
    return (one["apiVersion"], one["kind"]) in SCHEMAS


def check(one: Object) -> None:
    """Raise if the API would refuse the object, or drop a field of it."""
    jsonschema.validate(one, SCHEMAS[one["apiVersion"], one["kind"]])


def pod_of(rabbitmq: Object) -> Object:
    """Return a pod with what a RabbitmqCluster says of its pods, for what a schema of Kubernetes says of that."""
    spec = rabbitmq["spec"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": rabbitmq["metadata"]["name"]},
        "spec": {"affinity": spec["affinity"], **spec["override"]["statefulSet"]["spec"]["template"]["spec"]},
    }
