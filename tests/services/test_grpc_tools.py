"""Tools that people bring find out by reflection alone what both services can do, and call them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.services.fields import methods
from tests.services.processes import ROOT, WAIT_S
from tests.table import table

GO_TOOLS = ROOT / "build/grpc-tools"
BUF = ROOT / "node_modules/.bin/buf"

REFLECTION = "grpc.reflection.v1.ServerReflection"
GENERATION = "tokenwire.frontend.v1.GenerationService"
ASKED = json.dumps(
    {
        "generation": {
            "prompt": {"text": "Hello"},
            "stop": {"max_tokens": 3, "ignore_eos": True},
        }
    }
)


def tool(name: str) -> str:
    """Returns the path of a tool; skips the test where it is not there."""
    found = GO_TOOLS / name if (GO_TOOLS / name).exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: make grpc-tools")
    return str(found)


def run(*command: str | Path) -> str:
    """Returns what a command prints; fails where it does."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


@pytest.fixture(params=["frontend", "worker"])
def service(request, services) -> tuple[str, str]:
    """A service: (which, its address)."""
    worker, frontend = services
    return request.param, {"frontend": frontend, "worker": worker}[request.param].address


def test_grpcurl_lists_and_describes_everything(service):
    which, address = service
    grpcurl = tool("grpcurl")
    listed = run(grpcurl, "-plaintext", address, "list").split()
    assert {REFLECTION, "grpc.health.v1.Health"} <= set(listed)
    names = [*listed, f"{REFLECTION}.ServerReflectionInfo", f"{REFLECTION}Request"]
    names += [method.full_name for method in methods(which)]
    names += [
        message.full_name
        for message in methods(which)[0].input_type.file.message_types_by_name.values()
    ]
    described = run(grpcurl, "-plaintext", address, "describe")
    assert all(f"{name} is a service" in described for name in listed)
    with table() as row:
        for name in dict.fromkeys(names):
            with row(name):
                assert f"{name} is a" in run(grpcurl, "-plaintext", address, "describe", name)


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_buf_curl_lists_every_method(service, protocol):
    which, address = service
    if not BUF.exists():
        pytest.skip("buf is not here: make lint")
    listed = run(
        *(BUF, "curl", "--list-methods", "--protocol", "grpc", "--http2-prior-knowledge"),
        *("--reflect-protocol", protocol, f"http://{address}"),
    ).split()
    every = {f"{each.containing_service.full_name}/{each.name}" for each in methods(which)}
    assert every <= set(listed)


def test_grpcurl_calls_by_reflection(services):
    answer = run(
        *(tool("grpcurl"), "-plaintext", "-d", ASKED),
        *(services[1].address, f"{GENERATION}/Generate"),
    )
    assert json.loads(answer)["usage"]["completion_tokens"] == 3


def test_ghz_loads_by_reflection(services):
    report = json.loads(
        run(
            *(tool("ghz"), "--insecure", "--call", f"{GENERATION}.StreamGenerate"),
            *("-d", ASKED, "-n", "6", "-c", "2", "-O", "json", services[1].address),
        )
    )
    assert report["statusCodeDistribution"] == {"OK": 6}


def test_the_health_probe_of_kubernetes_is_answered(service):
    which, address = service
    probe = tool("grpc-health-probe")
    names = {each.containing_service.full_name for each in methods(which)}
    for name in ("", *names):
        run(probe, f"-addr={address}", f"-service={name}")
    with pytest.raises(AssertionError, match=r"(?i)not ?found|unknown"):
        run(probe, f"-addr={address}", "-service=no.such.Service")
