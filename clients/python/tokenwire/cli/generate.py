"""Continue a text.

The text is streamed as it is generated. `-` reads the prompt from standard input.
"""

from __future__ import annotations

import argparse

from tokenwire import Client
from tokenwire.cli import arguments, generation_options
from tokenwire.cli.printing import print_stream


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to continue; -: standard input")
    parser.add_argument(
        "--token-ids", action="store_true", help="the prompt is token ids, separated by spaces"
    )
    generation_options.configure(parser)


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the continuation."""
    text = arguments.text(args.prompt)
    prompt = arguments.token_ids("PROMPT", text.split()) if args.token_ids else text
    options = generation_options.given(args)
    stream = client.stream(prompt, max_delay=args.max_delay, content=args.content, **options)
    print_stream(stream, args, count=args.n or 1, limited=args.max_tokens is not None)
