"""Docker Compose: the file, and the proxy in front."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import yaml

from services.kit.web.catalogue import COMMON as MEANINGS
from services.local.needs import NGINX, ensure, search_path
from services.local.net import HOST, free_port, wait_for
from services.local.stack import ROOT, Stack, database_variable
from services.local.supervisor import dies_with_parent
from services.scenario import Scenario
from services.shop import ROUTES, SERVICES, STYLES
from tests.chart.objects import render, variables
from tests.chart.values_table import CHART
from tests.client import Api, refuses_two_keys, tells_how_to_send_it_again
from tests.events import Follower
from tests.integration.test_limits import POST, ask, serving

FILE = ROOT / "compose.yaml"
PROXY = ROOT / "docker" / "nginx.conf"
START_S = 20
#: What the profile `observe` starts besides the audit, and its official images.
OBSERVERS = {"prometheus": "prom/prometheus", "jaeger": "jaegertracing/jaeger", "grafana": "grafana/grafana"}
URLS = {"USERS_URL", "BILLING_URL", "NOTIFICATIONS_URL"}

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> dict[str, Service]:
    """The services of the file."""
    return yaml.safe_load(FILE.read_text())["services"]


def test_the_file_is_valid():
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_images_are_official_and_those_of_the_chart(compose: dict[str, Service]):
    images = {name: one["image"] for name, one in compose.items()}
    objects = render()
    for server in ("postgres", "rabbitmq"):
        assert images[server] == objects.pod(f"nameko-hw-{server}").spec["containers"][0]["image"]
    assert all(re.fullmatch(r"[a-z-]+:[\w.-]+", images[name]) for name in images.keys() - OBSERVERS.keys())
    assert {name: images[name].partition(":")[0] for name in OBSERVERS} == OBSERVERS
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", images[name].partition(":")[2]) for name in OBSERVERS)
    assert {name for name, one in compose.items() if "build" in one} == {*SERVICES, "audit"}


def test_everything_is_waited_for_by_its_health(compose: dict[str, Service]):
    for name, one in compose.items():
        assert one["healthcheck"]["test"][0] == "CMD", name
        for other, condition in one.get("depends_on", {}).items():
            may_be_missing = {"required": False} if other == "rabbitmq" else {}
            assert condition == {"condition": "service_healthy"} | may_be_missing
    assert compose["proxy"]["depends_on"].keys() == set(SERVICES)
    for service in SERVICES:
        assert "/health/ready" in " ".join(compose[service]["healthcheck"]["test"])


def test_only_the_proxy_and_what_observes_is_reachable_and_only_from_here(compose: dict[str, Service]):
    assert {name: one["ports"] for name, one in compose.items() if "ports" in one} == {
        "proxy": ["127.0.0.1:${PORT:-8000}:8080"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "jaeger": ["127.0.0.1:${JAEGER_PORT:-16686}:16686"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    networks = yaml.safe_load(FILE.read_text())["networks"]
    assert networks["servers"]["internal"] is True
    assert compose["postgres"]["networks"] == compose["rabbitmq"]["networks"] == ["servers"]
    assert all(compose[name]["networks"] == ["front"] for name in ("proxy", *OBSERVERS))


def test_mounted_files_are_there(compose: dict[str, Service]):
    for one in compose.values():
        for mount in one.get("volumes", []):
            source, *_ = mount.split(":")
            assert not source.startswith("./") or (ROOT / source).is_file()


def test_services_read_every_variable_that_they_get(compose: dict[str, Service]):
    for service in SERVICES:
        given = set(compose[service]["environment"])
        of_tokens = {one for one in variables() if one.startswith("AUTH")} - {"AUTH_LEEWAY_S"} | {"INTERNAL_TOKEN"}
        of_limits = {"RATE_LIMIT", "RATE_LIMIT_WINDOW_S", "TRUSTED_PROXIES"}
        others = {"AMQP_URI", "STYLE", "OTEL_EXPORTER_OTLP_ENDPOINT", *URLS, database_variable(service)}
        assert given == of_tokens | of_limits | others
        assert given - {"STYLE", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= variables()
    audit = render({"audit": {"enabled": True}}).pod("nameko-hw-audit").spec["containers"][0]
    assert compose["audit"]["command"] == [*audit["command"][:3], "60", *audit["command"][4:]]
    assert set(compose["audit"]["environment"]) == {database_variable(service) for service in SERVICES}


def test_each_service_migrates_then_runs(compose: dict[str, Service]):
    for service in SERVICES:
        shell, option, script = compose[service]["command"]
        assert (shell, option) == ("sh", "-c")
        run = shlex.join(render().pod(f"nameko-hw-{service}").spec["containers"][0]["command"])
        assert script == f"nameko-hw migrate {service} && exec {run.removesuffix('broker')}${{STYLE:-broker}}"


def test_the_broker_is_started_in_the_styles_that_have_one(compose: dict[str, Service]):
    assert compose["rabbitmq"]["profiles"] == [style.name for style in STYLES.values() if style.has_broker]
    assert (ROOT / ".env").read_text().endswith("\nCOMPOSE_PROFILES=${STYLE:-broker}${OBSERVE:+,observe}\n")


def test_what_observes_is_started_only_when_asked_for(compose: dict[str, Service]):
    observing = {name for name, one in compose.items() if one.get("profiles") == ["observe"]}
    assert observing == {"audit", *OBSERVERS}
    assert {name for name, one in compose.items() if "profiles" in one} == observing | {"rabbitmq"}
    for service in SERVICES:
        assert compose[service]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "${OBSERVE:+http://jaeger:4318}"


def test_prometheus_reads_the_services_and_the_audit_and_has_the_rules_of_the_chart(compose: dict[str, Service]):
    config = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [port] = render().pod("nameko-hw-orders").spec["containers"][0]["ports"]
    targets = [f"{name}:{port['containerPort']}" for name in (*SERVICES, "audit")]
    assert job["static_configs"] == [{"targets": targets}]
    assert (job["job_name"], job["honor_labels"]) == ("nameko-hw", True)
    [rules] = config["rule_files"]
    assert f"./helm/files/{rules}:/etc/prometheus/{rules}:ro" in compose["prometheus"]["volumes"]


def test_grafana_finds_the_metrics_the_traces_and_the_dashboard(compose: dict[str, Service]):
    folder = ROOT / "docker" / "grafana"
    for source in yaml.safe_load((folder / "datasources.yml").read_text())["datasources"]:
        server, _, port = source["url"].removeprefix("http://").partition(":")
        assert source["type"] == server
        assert any(one.endswith(f":{port}") for one in compose[server]["ports"])
    [provider] = yaml.safe_load((folder / "dashboards.yml").read_text())["providers"]
    dashboard = f"{provider['options']['path']}/dashboard.json"
    assert f"./helm/files/dashboard.json:{dashboard}:ro" in compose["grafana"]["volumes"]
    assert compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard


def test_all_containers_but_the_servers_have_no_rights_to_lose(compose: dict[str, Service]):
    for name in (*SERVICES, "audit", "proxy", *OBSERVERS):
        assert compose[name]["read_only"] is True
        assert compose[name]["cap_drop"] == ["ALL"]
        assert compose[name]["security_opt"] == ["no-new-privileges:true"]


def test_every_container_has_the_time_to_end(compose: dict[str, Service]):
    drain_s = yaml.safe_load((CHART / "values.yaml").read_text())["drain"]["timeoutSeconds"]
    for service in SERVICES:
        assert int(compose[service]["stop_grace_period"].removesuffix("s")) > drain_s


def test_the_proxy_has_the_routes_of_the_gateway():
    locations = re.findall(r"location ~ \^/\((?:\?<service>)?(.*)\) \{\n(.*)", PROXY.read_text())
    routes = {}
    for pattern, first in locations:
        for route in re.findall(r"[a-z]+(?:\\\.json)?", pattern.replace("(/|$)", "").replace("$", "")):
            target = re.search(r"set \$service (\w+);", first)
            routes[route.replace("\\", "")] = target[1] if target else route
    exact = re.findall(r"location = /([a-z]*) \{\n *set \$service (\w+);", PROXY.read_text())
    assert routes | dict(exact) == ROUTES


@contextmanager
def nginx(folder: Path, ports: dict[str, int]) -> Iterator[str]:
    """nginx with our configuration, where each service is a port of this machine; gives its base URL."""
    ensure([NGINX])
    program = shutil.which("nginx", path=search_path())
    assert program is not None
    port = free_port()
    addresses = "".join(f"{service} {HOST}:{ports[service]}; " for service in SERVICES)
    text = PROXY.read_text().replace("/tmp/", f"{folder}/").replace("listen 8080", f"listen {HOST}:{port}")
    text = text.replace("http://$service:8000", "http://$address")
    text = text.replace("http {", f"http {{ map $service $address {{ {addresses} }}", 1)
    (folder / "nginx.conf").write_text(f"user root;\n{text}" if os.geteuid() == 0 else text)
    process = subprocess.Popen(
        [*dies_with_parent("TERM"), program, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{HOST}:{port}"
    try:
        wait_for(lambda: answers(f"{url}/health/live"), START_S, "nginx")
        yield url
    finally:
        process.terminate()
        process.wait(START_S)


@pytest.fixture(scope="module")
def proxy(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the proxy in front of the stack's processes."""
    with nginx(tmp_path_factory.mktemp("nginx"), {name: ports[0] for name, ports in stack.ports.items()}) as url:
        yield url


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_the_scenario_holds_behind_the_proxy(proxy: str):
    lines: list[str] = []
    assert Scenario(proxy, say=lines.append).play() == 0, "\n".join(lines)


def test_the_proxy_holds_nothing_of_a_stream_back(proxy: str):
    user_id = str(uuid4())
    with Follower(proxy, user_id=user_id) as follower, Api(proxy) as api:
        api.post("/notifications", {"user_id": user_id, "subject": "Hello", "body": ""})
        [event] = follower.wait_for(1)
    assert event.letter["subject"] == "Hello"


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/openapi.json"])
def test_the_documentation_is_behind_the_proxy(proxy: str, path: str):
    assert requests.get(f"{proxy}{path}", timeout=5).status_code == 200


def test_the_root_is_that_of_users(proxy: str, stack: Stack):
    there = requests.get(f"http://{HOST}:{stack.ports['users'][0]}/", timeout=5, allow_redirects=False)
    here = requests.get(proxy, timeout=5, allow_redirects=False)
    assert (here.status_code, here.content) == (there.status_code, there.content)


@pytest.mark.parametrize(
    "path", ["/nothing", "/internal/billing/payments/x", "/usersx", "/health/ready", "/metrics", "/openapi.jsonx"]
)
def test_what_is_no_route_is_a_problem_of_the_proxy(proxy: str, path: str):
    is_problem(requests.get(f"{proxy}{path}", timeout=5), 404)


def test_a_body_beyond_all_measure_is_a_problem(proxy: str):
    is_problem(requests.post(f"{proxy}/orders", data=b"x" * 2**21, timeout=5), 413)


def test_a_body_that_a_service_refuses_gets_its_answer_each_time(proxy: str):
    """nginx sends it all before it reads, and has lost the answer if the connection is reset meanwhile."""
    body = {"user_id": str(uuid4()), "subject": "Hello", "body": "x" * 65 * 1024}
    answers = [requests.post(f"{proxy}/notifications", json=body, timeout=20) for _ in range(50)]
    assert {one.status_code for one in answers} == {413}


def raw(proxy: str, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes that no client library would send; return the head and the body of the answer."""
    host, port = proxy.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "line",
    [
        b"GET /users/%00 HTTP/1.1",
        b"GET /..%2f..%2fetc HTTP/1.1",
        b"GET /../x HTTP/1.1",
        b"nonsense",
        b"GET /users?" + b"x" * 10_000 + b" HTTP/1.1",
        b"GET /users HTTP/1.1\r\nX-Long: " + b"x" * 40_000,
        b"GET /users HTTP/1.1\r\nHost: y",
        b"GET /users HTTP/9.1",
        b"POST /users HTTP/1.1\r\nTransfer-Encoding: strange",
    ],
)
def test_what_the_proxy_cannot_read_is_a_problem(proxy: str, line: bytes):
    head, body = raw(proxy, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nX-Request-Id: " in head
    assert b"\r\nContent-Type: application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (400, "urn:nameko-hw:problem:malformed-request")


def test_what_can_only_be_read_is_a_problem_to_anything_else(proxy: str):
    answer = requests.post(f"{proxy}/health/live", timeout=5)
    is_problem(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD"
    assert requests.head(f"{proxy}/health/live", timeout=5).status_code == 200


def test_what_the_services_compress_and_tag_comes_through(proxy: str):
    url = f"{proxy}/docs/swagger-ui-bundle.js"
    first = requests.get(url, timeout=5)
    assert (first.headers["Content-Encoding"], first.headers["Vary"]) == ("gzip", "Accept-Encoding")
    again = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=5)
    assert (again.status_code, again.headers["Cache-Control"]) == (304, first.headers["Cache-Control"])


def test_two_keys_pass_the_proxy_and_are_refused(proxy: str):
    refuses_two_keys(proxy)


def is_problem(answer: requests.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.text)
    assert problem["status"] == status
    name = problem["type"].removeprefix("urn:nameko-hw:problem:")
    assert MEANINGS[name].status == status and problem["help"] == f"/docs/problems#{name}"
    assert answer.headers["X-Request-Id"]


def test_the_proxy_says_who_has_asked_and_services_believe_no_more(tmp_path: Path):
    """A client that names another address each time is one client."""
    with (
        serving(RATE_LIMIT=2, TRUSTED_PROXIES=["127.0.0.1"]) as (server, _),
        nginx(tmp_path, dict.fromkeys(SERVICES, server.port)) as url,
    ):
        port = int(url.rpartition(":")[2])
        told = [ask(port, POST + b"X-Forwarded-For: 192.0.2.%d\r\n" % number)[0] for number in range(3)]
        assert told == [200, 200, 429]


def test_a_service_that_is_away_is_a_problem_of_the_proxy(tmp_path: Path):
    with nginx(tmp_path, {service: free_port() for service in SERVICES}) as url:
        answer = requests.get(f"{url}/orders", timeout=5)
    is_problem(answer, 503)
    assert answer.headers["Retry-After"] == "1"
    assert tells_how_to_send_it_again(answer.json()["detail"])
