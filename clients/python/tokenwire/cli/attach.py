"""Go on with a generation that was started with --detach, or by another client.

RESUME_TOKEN is what --detach prints. Ending this command leaves the generation alone; `tokenwire
cancel --resume-token` ends it.
"""

from __future__ import annotations

import argparse

from tokenwire import Client
from tokenwire.cli import generation_options
from tokenwire.cli.arguments import UINT32, whole_number
from tokenwire.cli.printing import print_stream


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("resume_token", metavar="RESUME_TOKEN", help="names the generation")
    parser.add_argument(
        "--token-offset",
        type=whole_number(0, UINT32),
        action="append",
        default=[],
        metavar="N",
        help="tokens that are known already, which are not sent again; repeats for each sequence",
    )
    generation_options.add_shown(parser)
    generation_options.add_delivery(parser.add_argument_group("delivery"))


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints what follows."""
    stream = client.attach(
        args.resume_token,
        token_offsets=args.token_offset,
        max_delay=args.max_delay,
        content=args.content,
    )
    print_stream(stream, args, count=max(len(args.token_offset), 1))
