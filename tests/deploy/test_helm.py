"""The Helm chart: what Helm makes of it is what Kubernetes takes, and does what its pages say."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.tenants_file import read_tenants
from tokenwire_service.settings import parse
from tokenwire_worker.settings import WorkerSettings

from tests.deploy.kubernetes import (
    CHART,
    EXAMPLES,
    NAME,
    NAMESPACE,
    container,
    environment,
    helm,
    needs_helm,
    of_kind,
    pods,
    rendered,
    selects,
    template,
)
from tests.deploy.schemas import faults, needs_schemas
from tests.table import table

pytestmark = needs_helm

CALLED_BY_NAME = re.compile(r"[-\w.]+\.svc\.cluster\.local")


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_finds_nothing_to_say_about_an_example(example):
    linted = helm("lint", "--strict", str(CHART), "--values", str(EXAMPLES[example]))
    assert linted.returncode == 0, linted.stdout + linted.stderr


@needs_schemas
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_takes_what_an_example_makes(example):
    with table() as row:
        for each in rendered(example):
            with row(f"{each['kind']} {each['metadata']['name']}"):
                assert faults(each) == []


@needs_schemas
def test_the_schemas_know_a_fault():
    (frontend,) = of_kind(rendered("demo"), "StatefulSet").values()
    assert faults({**frontend, "spec": {**frontend["spec"], "replica": 2}})
    scaled = next(iter(of_kind(rendered("gpu"), "ScaledObject").values()))
    assert faults({**scaled, "spec": {**scaled["spec"], "minReplicaCount": "two"}})


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_service_takes_its_settings(example, monkeypatch, tmp_path):
    with table() as row:
        for name, pod in pods(rendered(example)).items():
            if name.endswith("follower"):
                continue
            with row(name), monkeypatch.context() as patched:
                # Some images have a model.
                patched.setenv("TOKENWIRE_WORKER_MODEL", "/models/demo")
                for variable, value in environment(pod).items():
                    if variable.startswith("TOKENWIRE_"):
                        patched.setenv(variable, _here(value, tmp_path))
                kind = FrontendSettings if "frontend" in name else WorkerSettings
                settings = parse(kind, name, [])
                assert settings.admin_listen == "0.0.0.0:9464"
                assert container(pod)["ports"][0]["containerPort"] == int(
                    settings.listen.rpartition(":")[2]
                )


def _here(value: str, folder: Path) -> str:
    """Returns a setting whose files are in this folder, and makes those that it names."""
    if value.startswith("/etc/tokenwire/"):
        value = str(folder / value.removeprefix("/etc/tokenwire/"))
        Path(value).parent.mkdir(exist_ok=True)
        Path(value).write_text("keys: []" if value.endswith(".yaml") else "0123456789abcdef" * 4)
    return value


def test_tenants_limits_are_a_file_that_frontends_read(tmp_path):
    limits = {"default": {"weight": 2}, "tenants": {"acme": {"tokens_per_minute": 2000000}}}
    objects = rendered("demo", f"frontend.tenants={json.dumps(limits)}")
    pod = pods(objects)[f"{NAME}-frontend"]
    (mounted,) = [each for each in pod["spec"]["volumes"] if each["name"] == "tenants"]
    ((name, text),) = of_kind(objects, "ConfigMap")[mounted["configMap"]["name"]]["data"].items()
    assert environment(pod)["TOKENWIRE_FRONTEND_TENANTS_FILE"].endswith(f"/tenants/{name}")
    (tmp_path / name).write_text(text)
    table_of = read_tenants(tmp_path / name)
    assert table_of.default.weight == 2
    assert table_of.named["acme"].tokens_per_minute == 2000000


def test_a_setting_of_each_type_reaches_the_service(monkeypatch):
    given = {
        "retained-bytes": 1073741824,
        "detach-ttl-max-s": 0.5,
        "fast-encoding": False,
        "tool-parser": "off",
    }
    objects = rendered("demo", f"frontend.settings={json.dumps(given)}")
    for name, value in environment(pods(objects)[f"{NAME}-frontend"]).items():
        if name.startswith("TOKENWIRE_") and "FLEET" not in name and "PEER" not in name:
            monkeypatch.setenv(name, value)
    settings = parse(FrontendSettings, "frontend", [])
    assert settings.retained_bytes == 1073741824
    assert settings.detach_ttl_max_s == 0.5
    assert settings.fast_encoding is False
    assert settings.tool_parser == "off"


def test_a_pool_s_nought_and_false_are_laid_over_the_defaults():
    objects = rendered(
        "two-nodes",
        "workerDefaults.gpus=4",
        "workers.llama-8b.gpus=0",
        "workers.llama-8b.readOnlyRootFilesystem=false",
    )
    worker = container(pods(objects)[f"{NAME}-worker-llama-8b"])
    assert "limits" not in worker["resources"]
    assert worker["securityContext"]["readOnlyRootFilesystem"] is False


REFUSED = {
    "no pool": ((), "workers: at least one pool is required"),
    "no certificates": (
        ('workers.a.engine="simulated"',),
        "tls.source: certificates are required",
    ),
    "no credentials": (
        ("gpu", 'frontend.apiKeysSecret=""'),
        "frontend.apiKeysSecret: callers must show who they are",
    ),
    "a setting as a variable": (
        ("demo", 'env.TOKENWIRE_FRONTEND_LISTEN="x"'),
        "TOKENWIRE_FRONTEND_LISTEN",
    ),
    "no model": (
        ("insecure=true", "workers.a={}"),
        "workers.a.model: required with the engine vllm",
    ),
    "an unknown value": (("demo", "frontend.replica=3"), "replica"),
    "an unknown engine": (("demo", 'workers.demo.engine="triton"'), "engine"),
    "a setting of the chart's own": (
        ("demo", 'frontend.settings={"listen": "0.0.0.0:1"}'),
        "listen",
    ),
    "no Secret": (("demo", 'tls.source="secrets"'), "tls.secrets.frontend: required"),
    "no command for the others": (
        ("demo", "workers.demo.multiNode.size=2"),
        "workers.demo.multiNode.followerCommand: required",
    ),
    "no Prometheus": (
        ("demo", 'workers.demo.autoscaling.by="keda"'),
        "monitoring.prometheusAddress: required",
    ),
    "fewer at most than at least": (
        ("demo", "frontend.autoscaling.minReplicas=20"),
        "frontend.autoscaling: minReplicas is 20, maxReplicas 16",
    ),
    "certificates of clients without ours": (
        ("demo", "tls.clientCertificates=true"),
        "tls.clientCertificates: requires tls.source",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused_by_name(case):
    values, said = REFUSED[case]
    done = template(*values)
    assert done.returncode != 0
    assert said in done.stderr


def _labelled(objects):
    return {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_selects_pods_selects_those_that_are_meant(example):
    objects = rendered(example)
    labels = _labelled(objects)
    frontends = {name for name in labels if "-frontend" in name}
    with table() as row:
        for kind in ("StatefulSet", "Deployment", "Service", "PodDisruptionBudget", "PodMonitor"):
            for name, each in of_kind(objects, kind).items():
                with row(f"{kind} {name}"):
                    selected = {
                        pod for pod in labels if selects(each["spec"]["selector"], labels[pod])
                    }
                    if "frontend" in name:
                        assert selected == frontends
                    elif name == f"{NAME}-workers":
                        # Pods that lend their GPUs serve nobody.
                        assert selected == {
                            pod for pod in labels.keys() - frontends if "follower" not in pod
                        }
                    elif kind == "PodMonitor":
                        assert selected == labels.keys() - frontends
                    else:
                        assert selected == {pod for pod in labels if pod.split()[0] == name}


@pytest.mark.parametrize("example", EXAMPLES)
def test_ports_that_are_named_exist(example):
    objects = rendered(example)
    ports = {"grpc", "admin", "openai"}
    for pod in pods(objects).values():
        names = {port["name"] for port in container(pod).get("ports", ())}
        assert names in (ports, ports - {"openai"}, set())
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container(pod).get(probe, {})
            assert asked.get("httpGet", {"port": "admin"})["port"] in ports
    for service in of_kind(objects, "Service").values():
        asked = {port["targetPort"] for port in service["spec"]["ports"]}
        assert asked <= ports
        assert ("openai" in asked) == service["metadata"]["name"].endswith("-openai")
    for monitor in of_kind(objects, "PodMonitor").values():
        assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_frontends_know_each_other_by_the_names_of_their_pods():
    for values, most in ((("demo",), 2), (("gpu",), 16)):
        objects = rendered(*values)
        (frontend,) = of_kind(objects, "StatefulSet").values()
        service = frontend["spec"]["serviceName"]
        assert of_kind(objects, "Service")[service]["spec"]["publishNotReadyAddresses"]
        known = environment(frontend["spec"]["template"])
        names = [
            f"{frontend['metadata']['name']}-{each}.{service}.{NAMESPACE}.svc.cluster.local:50051"
            for each in range(most)
        ]
        assert json.loads(known["TOKENWIRE_FRONTEND_PEER"]) == names
        assert known["TOKENWIRE_FRONTEND_ADVERTISE_ADDRESS"] == names[0]


def test_certificates_name_whatever_is_called():
    objects = rendered("gpu")
    certificates = {
        each["spec"]["secretName"]: each["spec"]["dnsNames"]
        for each in of_kind(objects, "Certificate").values()
        if "dnsNames" in each["spec"]
    }
    names = {
        kind: certificates[
            next(
                volume["secret"]["secretName"]
                for volume in pod["spec"]["volumes"]
                if volume["name"] == "tls"
            )
        ]
        for kind, pod in (
            ("frontend", pods(objects)[f"{NAME}-frontend"]),
            ("worker", pods(objects)[f"{NAME}-worker-llama-8b"]),
        )
    }
    called = environment(pods(objects)[f"{NAME}-frontend"])
    (worker,) = CALLED_BY_NAME.findall(called["TOKENWIRE_FRONTEND_WORKER"])
    assert worker in names["worker"]
    for peer in CALLED_BY_NAME.findall(called["TOKENWIRE_FRONTEND_PEER"]):
        assert f"*.{peer.partition('.')[2]}" in names["frontend"]
    assert f"{NAME}-frontend.{NAMESPACE}.svc.cluster.local" in names["frontend"]
    assert f"{NAME}-frontend" in of_kind(objects, "Service")
    with_openai = rendered("gpu", "frontend.openai.enabled=true")
    (frontends,) = (
        each["spec"]["dnsNames"]
        for each in of_kind(with_openai, "Certificate").values()
        if f"{NAME}-frontend.{NAMESPACE}.svc.cluster.local" in each["spec"].get("dnsNames", ())
    )
    assert f"{NAME}-frontend-openai.{NAMESPACE}.svc.cluster.local" in frontends
    assert f"{NAME}-frontend-openai" in of_kind(with_openai, "Service")


def test_probes_ask_over_grpc_in_plain_text_and_the_admin_port_with_certificates():
    for example, way in (("demo", "grpc"), ("gpu", "httpGet")):
        for name, pod in pods(rendered(example)).items():
            only = container(pod)
            assert way in only["readinessProbe"]
            # A frontend without a worker lives, and so does a worker that loads.
            assert only["livenessProbe"]["httpGet"]["path"] == "/healthz"
            if "worker" in name:
                probe = only["startupProbe"]
                assert way in probe
                assert probe["periodSeconds"] * probe["failureThreshold"] == 1800
            else:
                assert only["startupProbe"]["httpGet"]["path"] == "/healthz"


def test_a_pod_is_not_killed_while_it_drains():
    drains = rendered("demo", "frontend.drainGraceS=90.5", "workers.demo.drainGraceS=600")
    for pod in pods(drains).values():
        known = environment(pod)
        drain = next(float(known[name]) for name in known if name.endswith("_DRAIN_GRACE_S"))
        sleep = container(pod).get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})
        most = math.ceil(drain) + sleep["preStop"]["sleep"]["seconds"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > most + 10


@pytest.mark.parametrize("example", EXAMPLES)
def test_pods_run_without_rights(example):
    for pod in pods(rendered(example)).values():
        spec, only = pod["spec"], container(pod)
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_users_are_those_of_the_images():
    folder = CHART.parents[1]
    for example, dockerfile, name in (
        ("demo", "frontend.Dockerfile", "frontend"),
        ("demo", "worker.Dockerfile", "worker-demo"),
        ("gpu", "worker-vllm.Dockerfile", "worker-llama-8b"),
    ):
        (user,) = re.findall(r"^USER (\d+)$", (folder / dockerfile).read_text(), re.MULTILINE)
        pod = pods(rendered(example))[f"{NAME}-{name}"]
        assert pod["spec"]["securityContext"]["runAsUser"] == int(user)


def _allowed(objects, pod, port):
    """Returns who may call a port of a pod, by the network policies."""
    labels = _labelled(objects)[pod]
    policies = [
        each["spec"]
        for each in of_kind(objects, "NetworkPolicy").values()
        if selects(each["spec"]["podSelector"], labels)
    ]
    assert policies
    return [
        peer
        for policy in policies
        for rule in policy["ingress"]
        if port in [each["port"] for each in rule.get("ports", [{"port": port}])]
        for peer in rule["from"]
    ]


def test_only_frontends_reach_workers():
    objects = rendered("two-nodes")
    labels = _labelled(objects)
    single, grouped = f"{NAME}-worker-llama-8b", f"{NAME}-worker-llama-405b"

    def callers(pod):
        found = _allowed(objects, pod, "grpc")
        assert all(each.keys() == {"podSelector"} for each in found)
        return {
            name for each in found for name in labels if selects(each["podSelector"], labels[name])
        }

    assert callers(single) == {f"{NAME}-frontend"}
    # And the pods of one engine each other, on all ports.
    assert callers(grouped) == {f"{NAME}-frontend", grouped, f"{grouped} follower"}
    for pod in (single, f"{NAME}-frontend"):
        (metrics,) = _allowed(objects, pod, "admin")
        assert metrics == {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
        }


def test_engines_that_hand_over_kv_caches_reach_each_other():
    other = 'workers.other={"engine": "simulated", "gpus": 0}'
    objects = rendered("prefill-decode", other)
    prefill, decode = f"{NAME}-worker-prefill", f"{NAME}-worker-decode"
    labels = _labelled(objects)
    for pod in (prefill, decode):
        peers = [each["podSelector"] for each in _allowed(objects, pod, 5600)]
        reached_by = {name for name in labels for each in peers if selects(each, labels[name])}
        assert reached_by == {prefill, decode}
        assert environment(pods(objects)[pod])["TOKENWIRE_WORKER_VLLM__NIXL_HOST"] == "10.0.0.1"
    assert _allowed(objects, f"{NAME}-worker-other", 5600) == []
    own = 'workers.decode={"settings": {"phases": "decode", "vllm.nixl-host": "fd00::1"}}'
    chosen = environment(pods(rendered("prefill-decode", own))[decode])
    assert chosen["TOKENWIRE_WORKER_VLLM__NIXL_HOST"] == "fd00::1"


def test_who_reaches_frontends_is_a_value():
    (any_pod_here, frontends) = _allowed(rendered("demo"), f"{NAME}-frontend", "grpc")
    assert any_pod_here == {"podSelector": {}}
    web = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
    restricted = rendered("demo", f"networkPolicy.clients={json.dumps([web])}")
    assert _allowed(restricted, f"{NAME}-frontend", "grpc") == [web, frontends]
    assert _allowed(restricted, f"{NAME}-frontend", "openai") == [web]
    assert _allowed(rendered("gpu"), f"{NAME}-frontend", "openai") == []


def test_an_engine_of_two_nodes_is_one_worker():
    objects = rendered("two-nodes")
    (group,) = of_kind(objects, "LeaderWorkerSet").values()
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    leader = pods(objects)[f"{NAME}-worker-llama-405b"]
    follower = pods(objects)[f"{NAME}-worker-llama-405b follower"]
    told = json.loads(environment(leader)["TOKENWIRE_WORKER_VLLM__ARG"])
    assert told == {"nnodes": 2, "node_rank": 0, "master_addr": "leader"}
    assert container(follower)["command"][:2] == ["vllm", "serve"]
    assert not any(name.startswith("TOKENWIRE_") for name in environment(follower))
    for pod in (leader, follower):
        assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_values_that_the_page_names_exist():
    page = (CHART.parents[2] / "docs/kubernetes.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values["workers"]["POOL"] = values["workerDefaults"]
    # Not the keys of Secrets, such as tls.crt.
    named_there = re.findall(rf"`((?:{'|'.join(values)})\.(?!crt|key)[\w.]+)`", page)
    assert len(named_there) > 20
    with table() as row:
        for path in named_there:
            with row(path):
                found = values
                for part in path.split("."):
                    found = found[part]
