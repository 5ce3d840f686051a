"""List the models that are served."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tokenwire import Client
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
    rows = [
        (
            model.name,
            model.context_tokens,
            model.vocabulary_size,
            "yes" if model.has_chat_template else "no",
            model.ready_worker_count,
            ", ".join([*model.capabilities, *(f"lora:{name}" for name in model.lora_adapters)]),
        )
        for model in models
    ]
    print_table(("MODEL", "CONTEXT", "VOCABULARY", "CHAT", "WORKERS", "CAPABILITIES"), rows)
