"""Show where the time of one recent request went.

REQUEST_ID is what `tokenwire top`, --explain, or the services' logs call it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tokenwire import Client
from tokenwire.cli import waterfall
from tokenwire.cli.failures import CommandError
from tokenwire.cli.printing import print_json
from tokenwire.types import Record


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("request_id", metavar="REQUEST_ID", nargs="?", help="the request's id")
    which.add_argument("--last", action="store_true", help="the request that ended last")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the request's record."""
    record = _last(client) if args.last else client.record(args.request_id)
    if args.json:
        print_json(asdict(record))
    else:
        print(waterfall.render_record(record))


def _last(client: Client) -> Record:
    with client.activity(records=1) as stream:
        snapshot = next(stream, None)
    if snapshot is None or not snapshot.records:
        raise CommandError("the frontend remembers no request")
    return snapshot.records[0]
