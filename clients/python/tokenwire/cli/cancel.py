"""Cancel what runs under a request id, or one generation that outlives its calls.

It ends every generation of REQUEST_ID that runs at this frontend or one of its peers: those of the
credential's tenant, or with the role admin those of all. `tokenwire top` and the services' logs
show the ids. --resume-token ends the generation that --detach has named; one that has ended stays
as it is.
"""

from __future__ import annotations

import argparse

from tokenwire import Client


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("request_id", metavar="REQUEST_ID", nargs="?", help="the request's id")
    which.add_argument("--resume-token", metavar="TOKEN", help="names the generation")


def run(client: Client, args: argparse.Namespace) -> None:
    """Cancels, and says how many there were."""
    if args.resume_token is not None:
        client.cancel_generation(args.resume_token)
        return
    count = client.cancel_request(args.request_id)
    print(f"cancelled {count} generation{'s' if count != 1 else ''}")
