"""As much of a Kubernetes API server as `helm install --dry-run=server` asks for: version, kinds, single objects."""

import json
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_python

from tests.chart.objects import NAMESPACE, RELEASE, Object, Objects, Values, objects_in
from tests.chart.values_table import CHART
from tests.serving import Serving

KINDS = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount", "Pod"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "networking.k8s.io/v1": ["Ingress", "NetworkPolicy"],
    "policy/v1beta1": ["PodDisruptionBudget"],
    "policy/v1": ["PodDisruptionBudget"],
    "autoscaling/v1": ["HorizontalPodAutoscaler"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
    "gateway.networking.k8s.io/v1": ["HTTPRoute"],
}
EVERYWHERE = ("v1", "apps/v1", "networking.k8s.io/v1", "autoscaling/v1")
OLDEST = ("1.20", (*EVERYWHERE, "policy/v1beta1"))
CURRENT = ("1.34", (*EVERYWHERE, "policy/v1", "autoscaling/v2"))


class ApiServer(Serving):
    """Serves on a port of its own; `objects` are what the cluster holds, by their paths."""

    def __init__(self, version: str, apis: Iterable[str]) -> None:
        self.version = version
        self.apis = tuple(apis)
        self.objects: dict[str, Object] = {}
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = api.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        super().__init__(server)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/openapi/v2":
            return 200, "application/octet-stream", b""  # a document that describes nothing
        body = self.objects.get(path) or self._discovery(path)
        status = 200 if body else 404
        body = body or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return status, "application/json", json.dumps(body).encode()

    def _discovery(self, path: str) -> Any:
        groups: dict[str, list[Object]] = {}
        for api in self.apis:
            group, _, version = api.rpartition("/")
            if group:
                groups.setdefault(group, []).append({"groupVersion": api, "version": version})
        api = path.removeprefix("/apis/" if path.startswith("/apis/") else "/api/")
        if api in self.apis:
            return {
                "kind": "APIResourceList",
                "groupVersion": api,
                "resources": [
                    {"name": plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
                    for kind in KINDS[api]
                ],
            }
        return {
            "/version": {"major": "1", "minor": self.version[2:], "gitVersion": f"v{self.version}.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [
                    {"name": name, "versions": versions, "preferredVersion": versions[0]}
                    for name, versions in groups.items()
                ],
            },
        }.get(path)

    def add(self, one: Object) -> None:
        """Let the cluster hold an object of the release."""
        metadata = {
            **one["metadata"],
            "namespace": NAMESPACE,
            "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE},
        }
        root = "/api/v1" if one["apiVersion"] == "v1" else f"/apis/{one['apiVersion']}"
        path = f"{root}/namespaces/{NAMESPACE}/{plural(one['kind'])}/{metadata['name']}"
        self.objects[path] = {**one, "metadata": metadata}

    def install(self, values: Values | None = None) -> Objects:
        """What an installation or an upgrade would bring about; nothing is stored."""
        with helm_python.Config(
            kubeconfig_content=self._kubeconfig(),
            namespace=NAMESPACE,
            storage_driver="memory",
            burst_limit=1000,
            qps=1000,
        ) as config:
            return objects_in(config.install(CHART, RELEASE, values or {}, dry_run="server")["manifest"])

    def _kubeconfig(self) -> str:
        address = f"http://127.0.0.1:{self.port}"
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "clusters": [{"name": "it", "cluster": {"server": address}}],
                "users": [{"name": "it", "user": {}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            }
        )


def plural(kind: str) -> str:
    return {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}.get(kind, f"{kind.lower()}s")
