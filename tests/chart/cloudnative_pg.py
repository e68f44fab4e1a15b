"""What the API of CloudNativePG 1.28 takes, for the fields that our example uses; anything else is refused.

From the operator's CustomResourceDefinitions of Cluster and Database (config/crd/bases in its repository).
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def kind(name: str, spec: Schema) -> Schema:
    return fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "postgresql.cnpg.io/v1"},
        kind={"const": name},
        metadata=fields(
            ("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50}
        ),
        spec=spec,
    )


ROLE = fields(
    ("name",),
    name=TEXT,
    ensure={"enum": ["present", "absent"]},
    login={"type": "boolean"},
    passwordSecret=fields(("name",), name=TEXT),
)
CLUSTER = kind(
    "Cluster",
    fields(
        ("instances",),
        instances={"type": "integer", "minimum": 1},
        imageName=TEXT,
        postgresql=fields(
            synchronous=fields(
                ("method", "number"),
                method={"enum": ["any", "first"]},
                number={"type": "integer", "minimum": 1},
                dataDurability={"enum": ["required", "preferred"]},
                failoverQuorum={"type": "boolean"},
            ),
            parameters={"type": "object", "additionalProperties": {"type": "string"}},
        ),
        storage=fields(size={"type": "string", "pattern": "^[0-9]+[KMGT]i$"}),
        resources=fields(requests=QUANTITIES, limits=QUANTITIES),
        affinity=fields(
            enablePodAntiAffinity={"type": "boolean"},
            podAntiAffinityType={"enum": ["preferred", "required"]},
            topologyKey=TEXT,
        ),
        managed=fields(roles={"type": "array", "items": ROLE}),
    ),
)
DATABASE = kind(
    "Database", fields(("cluster", "name", "owner"), cluster=fields(("name",), name=TEXT), name=TEXT, owner=TEXT)
)
SCHEMAS = {"Cluster": CLUSTER, "Database": DATABASE}
