"""What went wrong, in one line for a person at a terminal."""

from __future__ import annotations

from tokenwire.errors import DeadlineExceededError, InternalError, TokenwireError, UnreachableError


class CommandError(Exception):
    """The command can't do what it was asked; its text is the line that says why."""


def describe(error: TokenwireError, target: str) -> str:
    """Returns one line on a failure: what is wrong, when to try again, where to look."""
    if isinstance(error, UnreachableError):
        # gRPC says first that it tried every address, and what went wrong last.
        cause = error.message.rpartition("last error: ")[2]
        return f"no connection to {target}: {cause}"
    line = " ".join(error.message.split())
    if error.retry_after_s is not None:
        line += f"; try again in {error.retry_after_s:g} s"
    if isinstance(error, InternalError | DeadlineExceededError):
        line += f" (trace id {error.trace_id})"
    return line
