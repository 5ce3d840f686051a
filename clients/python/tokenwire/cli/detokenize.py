"""Print the text of token ids."""

from __future__ import annotations

import argparse
import json
import sys

from tokenwire import Client


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
    words = sys.stdin.read().split() if args.ids == ["-"] else args.ids
    text = client.detokenize(
        [int(word) for word in words],
        model=args.model,
        skip_special_tokens=args.skip_special_tokens,
    )
    print(json.dumps({"text": text}) if args.json else text)
