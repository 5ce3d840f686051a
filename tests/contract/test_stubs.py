"""The committed stubs are what the protos generate, and run where they must."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc
from tokenwire import channel_arguments

ROOT = Path(__file__).resolve().parents[2]
STUBS = ("clients/python", "frontend")


def generated(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*_pb2*")
        if path.suffix in (".py", ".pyi")
    }


def test_make_proto_changes_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "tools/generate_stubs.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for folder in STUBS:
        fresh = generated(tmp_path / folder)
        assert len(fresh) >= 4
        assert generated(ROOT / folder) == fresh


def test_protos_are_whole_for_any_protoc(tmp_path):
    """As in docs/contract.md: nothing but the folder and protoc's own well-known types."""
    sources = [str(path) for path in (ROOT / "protos/tokenwire/frontend/v1").glob("*.proto")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos")]
    subprocess.run([*command, f"--python_out={tmp_path}", *sources], check=True)
    assert (tmp_path / "tokenwire/frontend/v1/generation_pb2.py").is_file()


@pytest.mark.parametrize("name", ["status.proto", "error_details.proto"])
def test_googles_files_are_those_of_the_package(name):
    committed = (ROOT / "protos/google/rpc" / name).read_bytes()
    assert committed == files("google.rpc").joinpath(name).read_bytes()


def test_the_generated_code_asks_for_no_newer_protobuf_than_6_31():
    """Code generated for 6.31 runs on every later 6 and on 7; newer code would not run on older."""
    for folder in STUBS:
        for name, source in generated(ROOT / folder).items():
            if name.endswith("_pb2.py"):
                assert b"# Protobuf Python Version: 6.31." in source, name


def test_every_channel_argument_is_one_that_grpc_knows():
    """gRPC passes over an unknown name in silence; its binary holds the names that it reads."""
    binary = Path(cygrpc.__file__).read_bytes()
    names = [
        value
        for value in vars(channel_arguments).values()
        if isinstance(value, str) and value.startswith("grpc.")
    ]
    assert len(names) > 10
    assert [name for name in names if name.encode() + b"\0" not in binary] == []
    assert b"grpc.no_such_argument\0" not in binary


def test_both_ends_agree_on_keepalive():
    server = dict(channel_arguments.server(1))
    for client in (channel_arguments.CLIENT, channel_arguments.WORKER_HOP):
        pings = dict(client)[channel_arguments.KEEPALIVE_TIME_MS]
        assert server[channel_arguments.MIN_PING_INTERVAL_WITHOUT_DATA_MS] < pings


@pytest.mark.parametrize("arguments", [channel_arguments.CLIENT, channel_arguments.SERVER])
def test_a_peer_that_froze_is_gone_within_30_s(arguments):
    """gRPC's core goes by the ping timeout, which is a minute unless it is set."""
    given = dict(arguments)
    interval_ms = given[channel_arguments.KEEPALIVE_TIME_MS]
    assert interval_ms + given[channel_arguments.PING_TIMEOUT_MS] <= 30_000


@pytest.mark.parametrize(
    ("target", "proxied"),
    [
        ("localhost:50051", False),
        ("LOCALHOST", False),
        ("127.0.0.1:50051", False),
        ("127.9.9.9:1", False),
        ("[::1]:50051", False),
        ("ipv4:127.0.0.1:50051", False),
        ("ipv6:[::1]:50051", False),
        ("dns:///localhost:50051", False),
        ("unix:/run/tokenwire.sock", False),
        ("frontend:50051", True),
        ("dns:///frontend.example:50051", True),
        ("localhost.example:50051", True),
        ("127.0.0.1.example:50051", True),
        ("10.127.0.0.1:50051", True),
        ("[2001:db8::1]:50051", True),
    ],
)
def test_no_proxy_stands_between_a_client_and_loopback(target, proxied):
    enabled = dict(channel_arguments.client(target)).get(channel_arguments.ENABLE_HTTP_PROXY, 1)
    assert bool(enabled) is proxied


def test_the_installed_grpc_is_one_that_the_stubs_accept():
    assert tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 75)


@pytest.mark.parametrize(
    "arguments",
    [
        channel_arguments.CLIENT,
        channel_arguments.WORKER_HOP,
        channel_arguments.client("localhost:1"),
        channel_arguments.server(5),
        channel_arguments.merged(
            channel_arguments.CLIENT, (channel_arguments.KEEPALIVE_TIME_MS, 1)
        ),
    ],
)
def test_no_channel_argument_is_given_twice(arguments):
    """Of two values for a name gRPC takes the first."""
    names = [name for name, _ in arguments]
    assert len(names) == len(set(names))
