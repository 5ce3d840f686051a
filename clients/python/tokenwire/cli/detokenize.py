"""Print the text of token ids."""

from __future__ import annotations

import argparse

from tokenwire import Client
from tokenwire.cli import arguments
from tokenwire.cli.printing import print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("ids", metavar="ID", nargs="+", help="token ids; -: from standard input")
    parser.add_argument("--model", metavar="NAME", default="", help="whose tokenizer")
    parser.add_argument(
        "--keep-special-tokens",
        dest="skip_special_tokens",
        action="store_false",
        default=None,
        help="show special tokens too",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the text."""
    words = arguments.text("-").split() if args.ids == ["-"] else args.ids
    text = client.detokenize(
        arguments.token_ids("ID", words),
        model=args.model,
        skip_special_tokens=args.skip_special_tokens,
    )
    if args.json:
        print_json({"text": text})
    else:
        print(text)
