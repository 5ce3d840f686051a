"""How settings are read and refused, by the parser that both services run."""

from __future__ import annotations

import re

import pytest
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_service.settings import ServiceSettings, parse
from tokenwire_service.version import VERSION
from tokenwire_worker.main import main as run_worker
from tokenwire_worker.settings import WorkerSettings

A, B = "127.0.0.1:50061", "[::1]:50062"
LEVELS = "--log-level: should be 'debug', 'info', 'warning' or 'error'"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("TOKENWIRE_"):
            monkeypatch.delenv(name)


def refused(capsys, settings: type[ServiceSettings], *arguments: str) -> list[str]:
    """Returns the lines with which settings are refused."""
    with pytest.raises(SystemExit) as exit_:
        parse(settings, "service", arguments)
    assert exit_.value.code == 64
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("name", ["TOKENWIRE_FRONTEND_WORKER", "TOKENWIRE_FRONTEND_WORKERS"])
@pytest.mark.parametrize(
    ("value", "workers"),
    [(A, [A]), (f"{A},{B}", [A, B]), (f" {A} , {B} ", [A, B]), (f'["{A}", "{B}"]', [A, B])],
)
def test_workers_as_a_variable(monkeypatch, name, value, workers):
    monkeypatch.setenv(name, value)
    assert parse(FrontendSettings, "service", []).worker == workers
    assert parse(FrontendSettings, "service", ["--worker", "other:1"]).worker == ["other:1"]


@pytest.mark.parametrize(
    ("settings", "name", "meant"),
    [
        (FrontendSettings, "TOKENWIRE_FRONTEND_LISTN", "TOKENWIRE_FRONTEND_LISTEN"),
        (FrontendSettings, "TOKENWIRE_FRONTEND_TLS__KEYS", "TOKENWIRE_FRONTEND_TLS__KEY"),
        (FrontendSettings, "TOKENWIRE_FRONTEND_PORT", None),
        (WorkerSettings, "TOKENWIRE_WORKER_OPENVINO__KV_BLOK", "TOKENWIRE_WORKER_OPENVINO__KV"),
        (WorkerSettings, "tokenwire_worker_modle", "TOKENWIRE_WORKER_MODEL"),
    ],
)
def test_a_misspelt_variable_is_refused_by_its_name(monkeypatch, capsys, settings, name, meant):
    monkeypatch.setenv(name, "1")
    (line,) = refused(capsys, settings, "--help-is-not-reached")
    assert line.startswith(f"service: {name}: unknown setting")
    assert meant is None or f"did you mean {meant}" in line


def test_variables_of_others_are_left_alone(monkeypatch):
    for name, value in {
        "TOKENWIRE_FRONTEND_SERVICE_HOST": "10.0.0.1",
        "TOKENWIRE_FRONTEND_SERVICE_PORT_GRPC": "50051",
        "TOKENWIRE_FRONTEND_PORT": "tcp://10.0.0.1:50051",
        "TOKENWIRE_FRONTEND_PORT_50051_TCP_ADDR": "10.0.0.1",
        "TOKENWIRE_FRONTEND_EU_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "TOKENWIRE_WORKER_MODEL": "other",
        "TOKENWIRE_TEST_MODEL": "other",
    }.items():
        monkeypatch.setenv(name, value)
    assert parse(FrontendSettings, "service", ["--worker", A]).worker == [A]


def test_keys_of_a_mapping_are_free(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_WORKER_OPENVINO__PROPERTY", '{"CACHE_DIR": "/tmp"}')
    monkeypatch.setenv("TOKENWIRE_WORKER_OPENVINO__LORA__FRENCH", "french.safetensors")
    own = parse(WorkerSettings, "service", ["--model", "m"]).openvino
    assert own.property == {"CACHE_DIR": "/tmp"}
    assert list(own.lora) == ["french"]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], ["--worker or --workers-file is required"]),
        (["--worker", "nonsense"], ["--worker: 'nonsense' is not HOST:PORT"]),
        (["--worker", "dns:///name"], ["--worker: 'name' is not HOST:PORT"]),
        (
            ["--workers-file", "nowhere"],
            ["--workers-file: nowhere: No such file or directory"],
        ),
        (
            ["--workers-file", "/dev/null"],
            ["--workers-file: /dev/null: is not a mapping with a field `workers`"],
        ),
        (
            ["--worker", "::1:5"],
            ["--worker: '::1:5' is not HOST:PORT; IPv6 hosts stand in brackets"],
        ),
        (
            ["--worker", A, "--listen", "h:99999", "--log-level", "loud"],
            [
                "--listen: h:99999: ports end at 65535",
                f"{LEVELS}, not 'loud'",
            ],
        ),
        (
            ["--worker", A, "--log-level", "loud" * 100],
            [f"{LEVELS}, not '{'loud' * 39}\u2026"],
        ),
        (["--worker", A, "--bogus", "1"], ["unrecognized arguments: --bogus 1"]),
        (
            ["--worker", A, "--no-fast-enc"],
            ["unrecognized arguments: --no-fast-enc; did you mean --no-fast-encoding?"],
        ),
        (["--worker"], ["--worker: expected one argument"]),
        (["--worker", A, "--peer", A], ["--peer: requires --fleet-key"]),
        (
            ["--worker", A, "--fleet-key", "nowhere"],
            ["--fleet-key: nowhere: No such file or directory"],
        ),
        (
            ["--worker", A, "--fleet-key", "/dev/null"],
            ["--fleet-key: /dev/null has 0 bytes; a key has 32 to 4096"],
        ),
        (
            ["--worker", A, "--fleet-key", __file__],
            [f"--fleet-key: {__file__} has 4097 bytes; a key has 32 to 4096"],
        ),
    ],
)
def test_each_fault_is_one_line_and_the_last_points_to_help(capsys, arguments, lines):
    said = refused(capsys, FrontendSettings, *arguments)
    assert said == [f"service: {line}" for line in (*lines, "--help tells more")]


def test_a_fleet_key_is_of_frontends_that_are_reached(capsys, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    arguments = ["--worker", A, "--fleet-key", str(key)]
    assert refused(capsys, FrontendSettings, *arguments)[0] == (
        "service: --fleet-key: requires --advertise-address"
    )
    chosen = parse(FrontendSettings, "service", [*arguments, "--advertise-address", A])
    assert chosen.fleet_key == key


def test_a_fault_of_a_variable_names_it(monkeypatch, capsys):
    monkeypatch.setenv("TOKENWIRE_FRONTEND_LISTEN", "nowhere")
    monkeypatch.setenv("TOKENWIRE_FRONTEND_WORKERS", A)
    first, _ = refused(capsys, FrontendSettings)
    assert first == "service: TOKENWIRE_FRONTEND_LISTEN (--listen): 'nowhere' is not HOST:PORT"


def test_a_pair_without_its_sign(capsys):
    first, _ = refused(capsys, WorkerSettings, "--model", "m", "--openvino.property", "foo")
    assert first == "service: --openvino.property: is not KEY=VALUE"


@pytest.mark.parametrize("settings", [FrontendSettings, WorkerSettings])
def test_help_and_version(capsys, settings):
    for argument in ("--help", "--version"):
        with pytest.raises(SystemExit) as exit_:
            parse(settings, "service", [argument])
        assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert said.endswith(f"service {VERSION}\n")
    assert "--TOKENWIRE" not in said
    assert not re.search(r"\(default(: (None)?| factory: \w+)\)", " ".join(said.split()))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engine", "vllm"], "--engine vllm: no surface is recorded"),
        (["--engine", "abacus"], "--engine: invalid choice: 'abacus'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_check_engine_refuses_with_64(capsys, arguments, says):
    with pytest.raises(SystemExit) as exit_:
        run_worker(["check-engine", *arguments])
    assert exit_.value.code == 64
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "gpu-0:1", "10.0.0.1:1"])
def test_other_hosts_reach_a_service_that_asks_for_credentials_or_is_insecure(capsys, address):
    listen = ["--worker", A, "--listen", address]
    [line] = refused(capsys, FrontendSettings, *listen)[:1]
    assert f"--listen {address}: other hosts reach it" in line
    assert "--api-keys-file, --jwt.jwks or --tls.ca, or --insecure" in line
    assert parse(FrontendSettings, "service", [*listen, "--insecure"]).insecure
    assert parse(FrontendSettings, "service", [*listen, "--tls.ca", "ca.pem"]).authenticates


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.53:1", "[::1]:1"])
def test_this_host_reaches_a_service_as_it_is(address):
    assert parse(FrontendSettings, "service", ["--worker", A, "--listen", address])
