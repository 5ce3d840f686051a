"""What went wrong, in one line for a person at a terminal."""

from __future__ import annotations

import re

import grpc

from tokenwire.errors import DeadlineExceededError, InternalError, TokenwireError, UnreachableError

_TLS_FAULT = re.compile(r"Ssl handshake failed .*OPENSSL_internal:(\w+)(?:: (.*))?")
_NO_TLS_THERE = "WRONG_VERSION_NUMBER"
_TLS_HINT = "; a server with TLS requires --tls or --tls-ca"
_SOCKET_FAULT = re.compile(r"Failed to connect to remote host: (?:connect: )?(.+?)(?: \(\d+\))?$")
_DNS_FAULT = re.compile(r"C-ares status is not ARES_SUCCESS .*: (.+)$")


class CommandError(Exception):
    """The command can't do what it was asked; its text is the line that says why."""


def describe(error: TokenwireError, target: str) -> str:
    """Returns one line on a failure: what is wrong, when to try again, where to look."""
    if isinstance(error, UnreachableError):
        # gRPC says first that it tried every address, and what went wrong last.
        cause = error.message.rpartition("last error: ")[2]
        hint = _TLS_HINT if cause.endswith("Socket closed") else ""
        return f"no connection to {target}: {_handshake(cause) or plain(cause)}{hint}"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"no Tokenwire frontend at {target}: it may be a worker, "
            "or a frontend too old for this command"
        )
    if isinstance(error, DeadlineExceededError):
        return f"the time of --timeout is over (trace id {error.trace_id})"
    line = " ".join(error.message.split())
    if error.retry_after_s is not None:
        line += f"; try again in {error.retry_after_s:g} s"
    if isinstance(error, InternalError) and error.trace_id not in line:
        line += f" (trace id {error.trace_id})"
    return line


def plain(cause: str) -> str:
    """Returns what the system says of a failed connection, without gRPC's own words around it."""
    found = _SOCKET_FAULT.search(cause) or _DNS_FAULT.search(cause)
    return found[1] if found else cause


def _handshake(cause: str) -> str | None:
    """Returns why no TLS came about; None where that is not the cause."""
    found = _TLS_FAULT.search(cause)
    if found is None:
        return None
    fault, detail = found.groups()
    if fault == _NO_TLS_THERE:
        return "it does not speak TLS"
    if fault == "CERTIFICATE_VERIFY_FAILED":
        return f"its certificate is not trusted: {detail}"
    return f"TLS handshake failed: {fault.lower().replace('_', ' ')}"
