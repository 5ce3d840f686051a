"""Where the server is, and how it is reached: options of every subcommand."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tokenwire import ApiKey, Client, RetryPolicy, Tls
from tokenwire._channel import checked_targets
from tokenwire.cli import arguments

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
        type=arguments.target,
        metavar="HOST:PORT[,...]",
        help="the frontend, or several, of which one is used until it fails; default: "
        f"$TOKENWIRE_TARGET, or {_DEFAULT_TARGET}",
    )
    add(
        "--timeout",
        type=arguments.seconds,
        metavar="SECONDS",
        help="give up after this time; default: never",
    )
    add("--tls", action="store_true", help="use TLS, trusting the public authorities")
    add("--tls-ca", metavar="FILE", help="use TLS, trusting these authorities (PEM)")
    add("--tls-certificate", metavar="FILE", help="own certificate chain (PEM)")
    add("--tls-key", metavar="FILE", help="private key of the certificate (PEM)")
    add(
        "--api-key-file",
        metavar="FILE",
        help="file with the API key or JWT to show; default: $TOKENWIRE_API_KEY",
    )
    add(
        "--insecure",
        action="store_true",
        help="send the key without TLS to other hosts too, where others can read it",
    )


def client(args: argparse.Namespace, target: str | None = None) -> Client:
    """Returns the client that the options describe, or one of another target.

    Raises:
        ValueError: a file that TLS can't use, where gRPC would say only that it can't connect; or
            a key that would be sent in plain text.
    """
    target = target or args.target
    key = api_key(args, target)
    return Client(target, tls=tls(args), api_key=key, timeout=args.timeout, retry=_RETRY)


def api_key(args: argparse.Namespace, target: str | None = None) -> ApiKey | None:
    """Returns the key of calls to the options' target, or to another; raises as `client`."""
    path, name = args.api_key_file, "$TOKENWIRE_API_KEY"
    if path is None:
        value = os.environ.get("TOKENWIRE_API_KEY", "")
    else:
        name = f"--api-key-file: {path}"
        try:
            value = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not ASCII text"
            raise ValueError(f"{name}: {reason}") from None
    key = ApiKey(value.strip(), over_plain_text=args.insecure)
    if not key.value:
        if path is not None:
            raise ValueError(f"{name}: is empty")
        return None
    try:
        key.check(checked_targets(target or args.target), encrypted=tls(args) is not None)
    except ValueError as error:
        words = str(error).removeprefix("api_key: ").replace("over_plain_text", "--insecure")
        raise ValueError(f"{name}: {words}") from None
    return key


def only_target(args: argparse.Namespace) -> str:
    """Returns the target of a command that looks at one frontend.

    Raises:
        ValueError: there are several.
    """
    if len(checked_targets(args.target)) > 1:
        raise ValueError(f"--target: {args.target} is several; only one is allowed here")
    target: str = args.target
    return target


def tls(args: argparse.Namespace) -> Tls | None:
    """Returns the TLS that the options describe; raises as `client`."""
    ca, certificate, key = args.tls_ca, args.tls_certificate, args.tls_key
    if not (args.tls or ca or certificate or key):
        return None
    if (certificate is None) != (key is None):
        raise ValueError("--tls-certificate and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        _check("--tls-ca", ca, context.load_verify_locations)
    if certificate is not None:
        _check("--tls-certificate", certificate, context.load_verify_locations)
        # An empty password, so that nobody is asked for that of an encrypted key.
        load_pair = partial(context.load_cert_chain, certificate, password="")
        _check("--tls-key", key, load_pair, "the private key of the certificate")
    return Tls(ca, certificate, key)


def _check(
    option: str, path: str, load: Callable[[str], None], content: str = "a certificate"
) -> None:
    try:
        if not Path(path).is_fifo():  # which can be read only once
            load(path)
    except ssl.SSLError:
        raise ValueError(f"{option}: {path} is not {content} (PEM)") from None
    except OSError as error:
        raise ValueError(f"{option}: {path}: {error.strerror}") from None
