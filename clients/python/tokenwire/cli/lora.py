"""Load, unload and list a worker's LoRA adapters; --target is the worker.

An adapter is loaded from the worker's --lora-folder. Unloading waits for the generations that have
the adapter, for at most --timeout; where they take longer, the adapter stays.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import grpc

from tokenwire import Client
from tokenwire._channel import open_channel
from tokenwire._trace import Trace
from tokenwire.cli import connection
from tokenwire.cli.failures import CommandError
from tokenwire.cli.printing import print_json, print_table
from tokenwire.errors import from_rpc_error
from tokenwire.worker.v1 import admin_pb2, admin_pb2_grpc

_STATE = "LORA_ADAPTER_STATE_"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("action", choices=["load", "unload", "list"], help="what to do")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the adapter, as requests are to name it"
    )
    parser.add_argument(
        "--path", default="", help="where it is within the worker's folder; default: NAME"
    )
    parser.add_argument("--json", action="store_true", help="with `list`: print a JSON list")


def run(_: Client, args: argparse.Namespace) -> None:
    """Does it, and prints what came of it."""
    if (args.name is None) != (args.action == "list"):
        raise ValueError(
            f"lora {args.action}: NAME is {'required' if args.name is None else 'not allowed'}"
        )
    target = connection.only_target(args)
    with open_channel(target, connection.tls(args), ()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)

        def call(method: Callable[..., Any], request: object) -> Any:
            trace = Trace(None)
            try:
                return trace.start(method, request, args.timeout)
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, trace.trace_id)
                if error.code is not grpc.StatusCode.UNIMPLEMENTED:
                    raise error from None
                if error.reason != error.code.name:  # the worker says why
                    raise CommandError(error.message) from None
                raise CommandError(
                    f"no Tokenwire worker at {target}, or one too old for this command"
                ) from None

        if args.action == "load":
            request = admin_pb2.LoadLoraAdapterRequest(name=args.name, path=args.path)
            call(stub.LoadLoraAdapter, request)
            print(f"{args.name} is loaded")
        elif args.action == "unload":
            call(stub.UnloadLoraAdapter, admin_pb2.UnloadLoraAdapterRequest(name=args.name))
            print(f"{args.name} is unloaded")
        else:
            listed = call(stub.ListLoraAdapters, admin_pb2.ListLoraAdaptersRequest())
            _print(listed.adapters, as_json=args.json)


def _print(adapters: Any, *, as_json: bool) -> None:
    rows = [
        {
            "name": each.name,
            "path": each.path,
            "state": admin_pb2.LoraAdapterState.Name(each.state).removeprefix(_STATE).lower(),
            "generations": each.generations,
        }
        for each in adapters
    ]
    if as_json:
        print_json(rows)
        return
    cells = [(row["name"], row["path"], row["state"], row["generations"]) for row in rows]
    print_table(("ADAPTER", "PATH", "STATE", "GENERATIONS"), cells)
