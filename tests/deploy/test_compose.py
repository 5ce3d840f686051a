"""compose.yaml, as far as it can be checked without a container engine."""

from __future__ import annotations

import re

import yaml

from tests.deploy.files import FOLDER, load
from tests.services.processes import ROOT
from tests.table import table

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PULLED = [name for name, service in SERVICES.items() if "image" in service]
BUILT = [name for name, service in SERVICES.items() if "build" in service]

FRONTENDS = ("frontend-1", "frontend-2")

UNCHECKED = {
    "collector": "its image holds nothing that could ask it",
    "tempo": "its image holds nothing that could ask it",
    "dcgm-exporter": "nothing waits for it, and Prometheus tells whether it answers",
    "fleet-key": "it ends, and what waits for it waits for its success",
}
"""Services without a health check, and why."""


def _profile(*profiles: str) -> set[str]:
    return {
        name
        for name, service in SERVICES.items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def test_without_a_profile_there_are_two_frontends_with_two_cpu_workers():
    assert _profile() == {*FRONTENDS, "fleet-key", "worker-1", "worker-2"}
    for worker in ("worker-1", "worker-2"):
        assert SERVICES[worker]["build"]["dockerfile"] == "deploy/worker.Dockerfile"
        for frontend in FRONTENDS:
            assert f"{worker}:50061" in _flags(frontend)["--worker"]


def test_frontends_find_what_the_other_one_has():
    with table() as row:
        for name in FRONTENDS:
            with row(name):
                flags = _flags(name)
                assert flags["--advertise-address"] == [f"{name}:50051"]
                assert flags["--peer"] == [f"{each}:50051" for each in FRONTENDS if each != name]
                (key,) = flags["--fleet-key"]
                assert key.startswith("/fleet/")
                assert key in SERVICES["fleet-key"]["command"][-1]
                assert "fleet:/fleet:ro" in SERVICES[name]["volumes"]


def _flags(name: str) -> dict[str, list[str]]:
    """Returns the flags of a service's command with their values."""
    command = SERVICES[name].get("command", [])
    words = command.split() if isinstance(command, str) else command
    found: dict[str, list[str]] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        found.setdefault(flag, []).append(value)
    return found


def test_each_profile_adds_its_own():
    assert _profile("observability") - _profile() == {
        "collector",
        "tempo",
        "prometheus",
        "grafana",
    }
    assert _profile("gpu") - _profile() == {"frontend-gpu", "worker-gpu", "dcgm-exporter"}
    # It stands in for the CPU pair: at the same port, and only with the worker of its profile.
    assert SERVICES["frontend-gpu"]["ports"] == SERVICES["frontend-1"]["ports"]
    assert list(SERVICES["frontend-gpu"]["depends_on"]) == ["worker-gpu"]
    assert SERVICES["worker-gpu"]["build"]["dockerfile"] == "deploy/worker-vllm.Dockerfile"


def test_what_it_depends_on_is_there_whenever_it_is():
    with table() as row:
        for name, service in SERVICES.items():
            with row(name):
                there = _profile(*service.get("profiles", []))
                assert set(service.get("depends_on", ())) <= there


def test_ports_are_published_on_loopback_and_admin_ports_nowhere():
    with table() as row:
        for name, service in SERVICES.items():
            with row(name):
                for port in service.get("ports", ()):
                    assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
                    assert not port.endswith(":9464")
                assert service.get("network_mode") != "host"


def test_images_are_pinned():
    with table() as row:
        for name in PULLED:
            with row(name):
                tag = SERVICES[name]["image"].rpartition("/")[2].partition(":")[2]
                assert re.match(r"v?\d+\.\d+\.\d+", tag), "not one exact version"


def test_whether_it_is_well_can_be_asked():
    with table() as row:
        for name, service in SERVICES.items():
            with row(name):
                if name in BUILT:
                    asked = "\nHEALTHCHECK " in (ROOT / service["build"]["dockerfile"]).read_text()
                else:
                    asked = "healthcheck" in service
                assert asked != (name in UNCHECKED)


def test_a_wait_for_health_can_end():
    with table() as row:
        for name, service in SERVICES.items():
            waits = service.get("depends_on", {})
            if isinstance(waits, dict):
                with row(name):
                    healthy = {
                        key for key, each in waits.items() if each["condition"] == "service_healthy"
                    }
                    assert not healthy & set(UNCHECKED)


def test_what_is_mounted_is_there():
    volumes = [
        (name, volume)
        for name, service in SERVICES.items()
        for volume in service.get("volumes", ())
        if isinstance(volume, str)
    ]
    with table() as row:
        for name, volume in volumes:
            with row(f"{name}: {volume}"):
                if volume.startswith("./"):
                    source, _, mode = volume.split(":")
                    assert (ROOT / source).exists()
                    assert mode == "ro"
                else:
                    assert volume.split(":")[0] in COMPOSE["volumes"]


def test_services_take_their_settings(main_here):
    # The real program reads the real environment; --help comes after the settings' names are known.
    help_of = {
        kind: main_here(f"tokenwire_{kind}", "--help").printed for kind in ("frontend", "worker")
    }
    with table() as row:
        for name in BUILT:
            with row(name):
                kind = "frontend" if "frontend" in name else "worker"
                check_settings(SERVICES[name]["environment"], kind, help_of[kind])
                for flag in _flags(name):
                    assert f"{flag} " in help_of[kind]


def check_settings(settings: dict[str, str], kind: str, told: str) -> None:
    prefix = f"TOKENWIRE_{kind.upper()}_"
    ours = [key for key in settings if key.startswith("TOKENWIRE_")]
    assert f"{prefix}ADMIN_LISTEN" in ours
    for key in ours:
        assert f"--{key.removeprefix(prefix).lower().replace('_', '-')} " in told
    # Without an endpoint nothing is sent, so that nobody tries where no collector is.
    assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"


def test_what_asks_for_no_credential_is_reached_from_this_host_alone():
    with table() as row:
        for name in BUILT:
            with row(name):
                kind = "WORKER" if name.startswith("worker") else "FRONTEND"
                assert SERVICES[name]["environment"][f"TOKENWIRE_{kind}_INSECURE"] == "true"
                for port in SERVICES[name].get("ports", ()):
                    assert port.startswith("127.0.0.1:")


def test_prometheus_scrapes_every_admin_port_by_its_name():
    expected = {f"tokenwire-{kind}": set() for kind in ("frontend", "worker")}
    for name in BUILT:
        environment = SERVICES[name]["environment"]
        for kind, names in expected.items():
            setting = kind.upper().replace("TOKENWIRE-", "TOKENWIRE_") + "_ADMIN_LISTEN"
            if setting in environment:
                assert environment[setting] == "0.0.0.0:9464"
                names.add(name)
    jobs = {
        job["job_name"]: job["dns_sd_configs"][0]
        for job in load("prometheus.yaml")["scrape_configs"]
    }
    for kind, names in expected.items():
        assert (set(jobs[kind]["names"]), jobs[kind]["port"]) == (names, 9464)
    assert (jobs["dcgm"]["names"], jobs["dcgm"]["port"]) == (["dcgm-exporter"], 9400)
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_traces_find_their_way():
    listens = load("collector.yaml")["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    endpoint = f"http://collector:{listens.rpartition(':')[2]}"
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint} " in (ROOT / "compose.yaml").read_text()
    tempo = load("tempo.yaml")
    takes = tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    (exporter,) = load("collector.yaml")["exporters"].values()
    assert exporter["endpoint"] == f"http://tempo:{takes.rpartition(':')[2]}"
    sources = yaml.safe_load(
        (FOLDER / "grafana/provisioning/datasources/datasources.yaml").read_text()
    )["datasources"]
    urls = {source["type"]: source["url"] for source in sources}
    assert urls["tempo"] == f"http://tempo:{tempo['server']['http_listen_port']}"
    assert urls["prometheus"] == "http://prometheus:9090"


def test_the_collector_s_pipelines_name_what_it_has():
    config = load("collector.yaml")
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])
