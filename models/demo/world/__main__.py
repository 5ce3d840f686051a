"""A look at the world: prints samples, or compares its rendering with the chat template."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from world.conversations import conversation, messages, pieces
from world.core import STRANGERS

DEMO = Path(__file__).resolve().parent.parent


def check() -> None:
    """Compare pieces() with the chat template on many conversations."""
    import jinja2

    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((DEMO / "chat_template.jinja").read_text(encoding="utf-8"))
    rng = Random(3)
    for _ in range(3000):
        talk = conversation(rng)
        shown = template.render(
            messages=messages(talk),
            tools=talk.tools,
            documents=talk.documents,
            add_generation_prompt=True,
            enable_thinking=talk.thinking,
        )
        *before, last = pieces(talk)
        own = "".join(piece.mark + piece.text + piece.end for piece in before) + last.mark
        if shown != own:
            raise SystemExit(f"template: {shown}\npieces:   {own}")
    print("3000 conversations are rendered alike")


def main() -> None:
    """Print samples, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--samples", type=int, default=20)
    options = parser.parse_args()
    if options.check:
        return check()
    rng = Random(1)
    for _ in range(options.samples):
        print(json.dumps(messages(talk := conversation(rng)), ensure_ascii=False), "->", talk.turns[-1].answer)
    print(len(STRANGERS), "prompts are kept for strangers")


if __name__ == "__main__":
    main()
