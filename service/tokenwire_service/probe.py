"""Asks a service's health: `python -m tokenwire_service.probe [options] HOST:PORT [SERVICE]`.

Exits with 0 when the service says SERVING, with 1 when it does not or can't be reached, and with 64
on wrong usage; for container health checks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.channel_arguments import client

from tokenwire_service.settings import LineParser, TlsSettings, check_address, refuse
from tokenwire_service.tls import ChannelTls, TlsError

PROGRAM = "python -m tokenwire_service.probe"

TIMEOUT_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks once and returns the exit code."""
    asked = _arguments(arguments)
    tls = TlsSettings(ca=asked.tls_ca, certificate=asked.tls_certificate, key=asked.tls_key)
    try:
        credentials = ChannelTls(tls, "--tls-").credentials()
    except TlsError as error:
        refuse(PROGRAM, str(error))
    with _channel(asked.address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            request = health_pb2.HealthCheckRequest(service=asked.service)
            answer = stub.Check(request, timeout=TIMEOUT_S, wait_for_ready=True)
        except grpc.RpcError as error:
            silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            said = f"no answer within {TIMEOUT_S:g} s" if silent else error.code().name
            print(f"{asked.address}: {said}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{asked.address}: {status}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, client(address))
    return grpc.secure_channel(address, credentials, client(address))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = LineParser(
        prog=PROGRAM,
        description="Asks a service's health. Exits with 0 when it is SERVING, else with 1; "
        "with 64 on wrong usage.",
    )
    parser.add_argument("address", metavar="HOST:PORT", type=_address)
    parser.add_argument(
        "service", metavar="SERVICE", nargs="?", default="", help="default: the whole server"
    )
    parser.add_argument(
        "--tls-ca", type=Path, metavar="PEM", help="authority of the service's certificate"
    )
    parser.add_argument(
        "--tls-certificate",
        type=Path,
        metavar="PEM",
        help="own certificate, where one is asked for",
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    return parser.parse_args(arguments)


def _address(text: str) -> str:
    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
