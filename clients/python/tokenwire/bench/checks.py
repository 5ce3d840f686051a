"""Options that cannot be honoured: each is refused by its name, before anything is started."""

from __future__ import annotations

import argparse
import math

from tokenwire import ModelInfo
from tokenwire.bench.lengths import distribution
from tokenwire.bench.scenarios import SCENARIOS
from tokenwire.cli.failures import CommandError


def of_options(args: argparse.Namespace) -> None:
    """Raises ValueError where options do not go together."""
    if args.replay and args.rate:
        raise ValueError("--replay: brings its own times; it does not go with --rate")
    if any(args.max_delay) and "generate" in args.call:
        raise ValueError("--max-delay: Generate has no deltas to hold; choose another --call")
    if args.tools and args.prompt != "chat":
        raise ValueError("--tools: goes with --prompt chat")
    if args.prefixes and not args.prefix_tokens:
        raise ValueError("--prefixes: --prefix-tokens says how long they are")
    if not SCENARIOS[args.scenario].sweeps:
        for name in ("rate", "replay"):
            if getattr(args, name):
                raise ValueError(f"--{name}: {args.scenario} chooses when requests start")
        for name in ("call", "concurrency", "max_delay"):
            if len(getattr(args, name)) > 1:
                raise ValueError(f"--{name.replace('_', '-')}: {args.scenario} takes one value")


def of_model(args: argparse.Namespace, model: ModelInfo, room: int) -> None:
    """Refuses what the model cannot do; `room` is for prefix, prompt and output together.

    Random lengths without an upper bound are not refused here: those that do not fit are cut.

    Raises:
        CommandError: chats of a model without a template.
        ValueError: a length that no request can have.
    """
    if args.prompt == "chat" and not model.has_chat_template:
        raise CommandError(f"--prompt chat: {model.name} has no chat template")
    prefix = args.prefix_tokens if args.prefixes else 0
    output = distribution(args.output).most
    _fits("--output", prefix, output, room)
    _fits("--input", prefix + min(output, room), distribution(args.input).most, room)


def _fits(option: str, others: float, tokens: float, room: int) -> None:
    if tokens < math.inf and others + tokens > room:
        raise ValueError(
            f"{option}: {tokens:g} tokens do not fit: the model takes {room:,} "
            "of prefix, prompt and output together"
        )
