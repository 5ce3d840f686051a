"""Print the token ids of a text."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tokenwire import Client
from tokenwire.cli import arguments
from tokenwire.cli.printing import print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("text", metavar="TEXT", help="the text; -: standard input")
    parser.add_argument("--model", metavar="NAME", default="", help="whose tokenizer")
    parser.add_argument(
        "--no-special-tokens",
        dest="add_special_tokens",
        action="store_false",
        default=None,
        help="leave out what the tokenizer adds, such as a beginning-of-text token",
    )
    parser.add_argument("--offsets", action="store_true", help="show each token's place and text")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the ids in one line, or a table with offsets, or a JSON object."""
    text = arguments.text(args.text)
    tokens = client.tokenize(
        text,
        model=args.model,
        add_special_tokens=args.add_special_tokens,
        with_offsets=args.offsets,
    )
    if args.json:
        print_json(asdict(tokens))
    elif tokens.offsets is not None:
        places = zip(tokens.token_ids, tokens.offsets, strict=True)
        rows = [(number, start, end, repr(text[start:end])) for number, (start, end) in places]
        print_table(("ID", "START", "END", "TEXT"), rows)
    else:
        print(*tokens.token_ids)
