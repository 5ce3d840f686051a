"""List the workers behind the frontend, with their state and load."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tokenwire import Client
from tokenwire.cli.failures import plain
from tokenwire.cli.printing import print_json, print_table

_TITLES = (
    *("ADDRESS", "NAME", "STATE", "MODEL", "ENGINE"),
    *("RUNNING", "WAITING", "IN FLIGHT", "KV", "REASON"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the workers."""
    workers = client.workers()
    if args.json:
        print_json([asdict(worker) for worker in workers])
        return
    apart = any(worker.phases != "any" for worker in workers)
    titles = (*_TITLES[:3], "PHASES", *_TITLES[3:]) if apart else _TITLES
    rows = [
        (
            worker.address,
            worker.name,
            worker.state,
            *([worker.phases] if apart else []),
            worker.model,
            worker.engine,
            worker.running,
            worker.waiting,
            worker.in_flight,
            f"{worker.kv_cache_usage:.0%}",
            plain(worker.state_reason),
        )
        for worker in workers
    ]
    print_table(titles, rows)
