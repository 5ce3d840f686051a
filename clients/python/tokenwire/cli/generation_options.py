"""How to generate, and what to show of it: options of `generate` and `chat`.

An option's destination is its name in GenerationOptions, so that `given` needs no table.
"""

from __future__ import annotations

import argparse
from typing import cast

from tokenwire.cli.arguments import (
    UINT32,
    UINT64,
    number,
    seconds,
    text_or_file,
    token_bias,
    whole_number,
)
from tokenwire.options import GenerationOptions


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_shown(parser)
    _add_request(parser.add_argument_group("request"))
    delivery = parser.add_argument_group("delivery")
    add_delivery(delivery)
    _add_keeping(delivery)
    _add_sampling(parser.add_argument_group("sampling (default: the model's own)"))
    _add_stop(parser.add_argument_group("stop conditions"))
    _add_guided(parser.add_argument_group("guided decoding (at most one)"))


def add_shown(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is shown."""
    shown = parser.add_argument_group("output")
    shown.add_argument("--json", action="store_true", help="print one JSON object at the end")
    shown.add_argument(
        "--explain", action="store_true", help="end with a waterfall of the request's stages"
    )


def add_delivery(group: argparse._ArgumentGroup) -> None:
    """Adds the options that say how deltas come."""
    add = group.add_argument
    add("--max-delay", type=seconds, metavar="SECONDS", help="merge deltas of up to this time")
    add(
        "--content",
        choices=["text_and_ids", "text", "ids"],
        help="what is sent of the output; what is not sent is not shown",
    )


def _add_keeping(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--detach",
        dest="on_disconnect",
        action="store_const",
        const="detach",
        help="keep the generation when this command ends, for `tokenwire attach`; prints its "
        "resume token on standard error",
    )
    add(
        "--detach-ttl",
        type=seconds,
        metavar="SECONDS",
        help="time that it is kept without a caller; default: 60",
    )
    add(
        "--idempotency-key",
        metavar="KEY",
        help="attach to the generation of this key where there is one, instead of a second one",
    )


def given(args: argparse.Namespace) -> GenerationOptions:
    """Returns the options that the command line names."""
    values = {name: getattr(args, name, None) for name in GenerationOptions.__annotations__}
    named = {name: value for name, value in values.items() if value is not None}
    if "logit_bias" in named:
        named["logit_bias"] = dict(named["logit_bias"])
    return cast("GenerationOptions", named)


def _add_request(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="NAME", help="the model; not required where one is served")
    add(
        *("-n", "--n"),
        type=whole_number(1, 32),
        metavar="COUNT",
        help="sequences to generate, 1 to 32; shown at the end",
    )
    add("--time-budget", type=seconds, metavar="SECONDS", help="return what exists by then")
    add(
        "--logprobs",
        action="store_true",
        default=None,
        help="log probabilities of the tokens, in --json",
    )
    add(
        "--top-logprobs",
        type=whole_number(0, 20),
        metavar="COUNT",
        help="alternatives to each token, at most 20, in --json",
    )
    add(
        "--prompt-logprobs",
        type=whole_number(0, 20),
        metavar="COUNT",
        help="log probabilities of the prompt, with this many alternatives, in --json",
    )
    add(
        "--truncate-prompt-tokens",
        type=whole_number(0, UINT32),
        metavar="N",
        help="keep only the prompt's last tokens",
    )
    add("--echo", action="store_true", default=None, help="start with the prompt's text")
    add("--lora-adapter", metavar="NAME", help="LoRA adapter to apply")
    add("--cache-salt", metavar="TEXT", help="share cached prefixes only among equal salts")
    add(
        "--priority",
        type=whole_number(-100, 100),
        metavar="N",
        help="higher goes first; -100 to 100",
    )
    add("--request-id", metavar="ID", help="name of the request in logs and traces")


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--temperature", type=number, metavar="X", help="0: always the likeliest token")
    add("--top-p", type=number, metavar="X", help="sample among tokens of this joint probability")
    add(
        "--top-k",
        type=whole_number(0, UINT32),
        metavar="N",
        help="sample among this many tokens; 0: all",
    )
    add("--min-p", type=number, metavar="X", help="drop tokens below this share of the likeliest")
    add("--repetition-penalty", type=number, metavar="X", help="1 is neutral")
    add("--presence-penalty", type=number, metavar="X", help="-2 to 2")
    add("--frequency-penalty", type=number, metavar="X", help="-2 to 2")
    add("--seed", type=whole_number(0, UINT64), metavar="N", help="make sampling repeatable")
    add(
        "--logit-bias",
        action="append",
        type=token_bias,
        metavar="ID=BIAS",
        help="added to a token's logit, -100 to 100; repeats",
    )
    add(
        "--ban-word",
        dest="banned_words",
        action="append",
        metavar="TEXT",
        help="never generate it; repeats",
    )


def _add_stop(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-tokens",
        type=whole_number(1, UINT32),
        metavar="N",
        help="at most this many; default: the rest of the context",
    )
    add(
        "--min-tokens",
        type=whole_number(0, UINT32),
        metavar="N",
        help="no sequence ends before this many",
    )
    add("--stop", action="append", metavar="TEXT", help="end where this appears; repeats")
    add(
        "--stop-token-id",
        dest="stop_token_ids",
        action="append",
        type=whole_number(0, UINT32),
        metavar="ID",
        help="end with this token; repeats",
    )
    add("--ignore-eos", action="store_true", default=None, help="go on past the model's own end")
    add(
        "--include-stop",
        dest="include_stop_in_output",
        action="store_true",
        default=None,
        help="keep the stop string in the text",
    )


def _add_guided(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--json-schema",
        type=text_or_file,
        metavar="JSON|@FILE",
        help="JSON that is valid for this schema",
    )
    add("--json-object", action="store_true", default=None, help="a JSON object")
    add("--regex", metavar="REGEX", help="a text that this matches as a whole")
    add("--grammar", type=text_or_file, metavar="EBNF|@FILE", help="a text of this grammar")
    add("--choice", action="append", metavar="TEXT", help="one of these texts; repeats")
