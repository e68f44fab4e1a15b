"""What the API of cert-manager takes, for the fields that the chart uses; anything else is refused.

From its CustomResourceDefinitions of Certificate and Issuer (deploy/crds in its repository).
"""

from tests.chart.cloudnative_pg import TEXT, Schema, fields

API = "cert-manager.io/v1"
METADATA = fields(
    ("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 253}, labels={}
)


def kind(name: str, spec: Schema) -> Schema:
    return fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": API},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


CERTIFICATE = kind(
    "Certificate",
    fields(
        ("secretName", "issuerRef"),
        secretName=TEXT,
        issuerRef=fields(("name",), name=TEXT, kind=TEXT, group=TEXT),
        isCA={"type": "boolean"},
        commonName={"type": "string", "maxLength": 64},
        dnsNames={"type": "array", "items": TEXT},
        duration={"type": "string", "pattern": "^[0-9]+h$"},
        usages={"type": "array", "items": {"enum": ["digital signature", "server auth", "client auth"]}},
        privateKey=fields(
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
    ),
)
ISSUER = kind("Issuer", fields(selfSigned={"const": {}}, ca=fields(("secretName",), secretName=TEXT)))
SCHEMAS = {"Certificate": CERTIFICATE, "Issuer": ISSUER}
