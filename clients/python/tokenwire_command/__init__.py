"""Starts the `tokenwire` command.

Outside the package `tokenwire`, which imports gRPC: only before that can gRPC be told to be silent.
"""

import os


def main() -> int:
    """Runs the command and returns its exit code; wrong usage ends the process with 2."""
    # gRPC writes its log to the terminal; the command says itself, in one line, what went wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tokenwire.cli.main import main as run  # noqa: PLC0415 - as above

    return run()
