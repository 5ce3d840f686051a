"""Where the server is, and how it is reached: options of every subcommand."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tokenwire import Client, RetryPolicy, Tls

_DEFAULT_TARGET = "127.0.0.1:50051"

_RETRY = RetryPolicy(attempts=2, first_delay_s=0.5)
"""A person at a terminal would rather know than wait. At least half of the delay is waited: gRPC
looks at a channel's state every 0.2 s, and one that is closed sooner after a wait for it can leave
a thread behind that complains."""


def configure(parser: argparse.ArgumentParser, *, subcommand: bool = False) -> None:
    """Adds the options; a subcommand's override those that stand before its name."""
    group = parser.add_argument_group("connection")

    def add(name: str, default: str | None = None, **settings: Any) -> None:
        settings["default"] = argparse.SUPPRESS if subcommand else default
        group.add_argument(name, **settings)

    add(
        "--target",
        os.environ.get("TOKENWIRE_TARGET") or _DEFAULT_TARGET,
        metavar="HOST:PORT",
        help=f"the frontend; default: $TOKENWIRE_TARGET, or {_DEFAULT_TARGET}",
    )
    add("--timeout", type=float, metavar="SECONDS", help="give up after this time; default: never")
    add("--tls", action="store_true", help="use TLS, trusting the public authorities")
    add("--tls-ca", metavar="FILE", help="use TLS, trusting these authorities (PEM)")
    add("--tls-certificate", metavar="FILE", help="own certificate chain (PEM)")
    add("--tls-key", metavar="FILE", help="private key of the certificate (PEM)")


def client(args: argparse.Namespace) -> Client:
    """Returns the client that the options describe."""
    files = (args.tls_ca, args.tls_certificate, args.tls_key)
    tls = Tls(*files) if args.tls or any(files) else None
    return Client(args.target, tls=tls, timeout=args.timeout, retry=_RETRY)
