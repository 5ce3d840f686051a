"""Cancel what runs under a request id.

It ends every generation of REQUEST_ID that runs at this frontend: those of the credential's tenant,
or with the role admin those of all. `tokenwire top` and the services' logs show the ids.
"""

from __future__ import annotations

import argparse

from tokenwire import Client


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("request_id", metavar="REQUEST_ID", help="the request's id")


def run(client: Client, args: argparse.Namespace) -> None:
    """Cancels, and says how many there were."""
    count = client.cancel_request(args.request_id)
    print(f"cancelled {count} generation{'s' if count != 1 else ''}")
