"""List the models that are served."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from tokenwire import Client, ModelInfo
from tokenwire.cli.printing import print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints the models."""
    models = client.models()
    if args.json:
        print_json([asdict(model) for model in models])
        return
    if not models:
        print(
            "tokenwire: no model is served: no worker is ready; `tokenwire workers` shows their "
            "states",
            file=sys.stderr,
        )
        return
    rows = [
        (
            model.name,
            model.context_tokens,
            model.vocabulary_size,
            _chat(model),
            model.ready_worker_count,
            ", ".join([*model.capabilities, *(f"lora:{name}" for name in model.lora_adapters)]),
        )
        for model in models
    ]
    print_table(("MODEL", "CONTEXT", "VOCABULARY", "CHAT", "WORKERS", "CAPABILITIES"), rows)


def _chat(model: ModelInfo) -> str:
    """Says whether the model chats, and which formats of its output are read."""
    formats = ", ".join(filter(None, (model.tool_parser, model.reasoning_parser)))
    if not model.has_chat_template:
        return "no"
    return f"yes ({formats})" if formats else "yes"
