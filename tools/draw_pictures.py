"""Draws the README's pictures of `tokenwire top` and `tokenwire trace` from a real run.

    python tools/draw_pictures.py

Starts a worker on the CPU and a frontend with the demo model, keeps two dozen chats going for a few
seconds, and writes docs/pictures/top.svg and docs/pictures/trace.svg.
"""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tokenwire import AsyncClient
from tokenwire.cli import rates, waterfall
from tokenwire.cli.top_view import View
from tokenwire.types import Activity, Record

from demo.pair import Pair

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"
CHATS = 24
"""At once: as many as keep a small worker busy."""

SNAPSHOTS = 8
"""Of a second each, until the picture is taken: by then the quantiles are of some hundred chats."""

QUESTIONS = (
    "What is Tokenwire?",
    "Tell me a story about a dog.",
    "What is 17 plus 25?",
    "Name three fruits.",
    "What is the capital of France?",
)


async def main() -> None:
    """Runs the services and draws."""
    logs = ROOT / "build/pictures"
    with Pair(ROOT / "models/demo/openvino", 50061, 50051, logs) as pair:
        pair.wait_until_ready()
        async with AsyncClient(pair.frontend) as client:
            chats = [asyncio.create_task(_chat(client, place)) for place in range(CHATS)]
            before, now = await _watch(client)
            for chat in chats:
                chat.cancel()
            slowest = max(now.records, key=lambda record: record.usage.completion_tokens)
            record = await client.record(slowest.request_id)
        _draw_top(pair.frontend, before, now)
        _draw_trace(record)


async def _chat(client: AsyncClient, place: int) -> None:
    source = random.Random(place)
    while True:
        question = source.choice(QUESTIONS)
        async for _delta in client.stream(chat=[{"role": "user", "content": question}]):
            pass


async def _watch(client: AsyncClient) -> tuple[Activity, Activity]:
    """Returns the last two of SNAPSHOTS."""
    seen: list[Activity] = []
    async with client.activity(interval_s=1.0, records=10) as snapshots:
        async for snapshot in snapshots:
            seen.append(snapshot)
            if len(seen) == SNAPSHOTS:
                break
    return seen[-2], seen[-1]


def _draw_top(target: str, before: Activity, now: Activity) -> None:
    console = Console(record=True, width=130, file=(ROOT / "build/pictures/top.txt").open("w"))
    console.print(View(target, now, rates.between(before, now)))
    _save(console, "tokenwire top", PICTURES / "top.svg")


def _draw_trace(record: Record) -> None:
    console = Console(record=True, width=100, file=(ROOT / "build/pictures/trace.txt").open("w"))
    console.print(Text(waterfall.render_record(record).strip("\n")))
    _save(console, f"tokenwire trace {record.request_id}", PICTURES / "trace.svg")


def _save(console: Console, title: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    drawn = console.export_svg(title=title, unique_id=path.stem)
    # rich has its font from elsewhere on the network; a viewer's own does as well.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    asyncio.run(main())
