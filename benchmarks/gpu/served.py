"""The served arms: a client process against a frontend that runs already."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from tokenwire import AsyncClient

from benchmarks.gpu.load import Load, drive


async def run(arm: str, load: Load, target: str) -> dict[str, float]:
    """Runs the load, by one StreamGenerate call for each request or by one Session for all."""
    options: dict[str, Any] = {
        "max_tokens": load.output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    async with AsyncClient(target, timeout=600) as client, client.session() as session:
        open_stream = client.stream if arm == "stream" else session.open
        (model,) = await client.models()

        async def open_(prompt: list[int]) -> AsyncIterator[int]:
            async for delta in open_stream(prompt, **options):
                yield len(delta.token_ids)

        return await drive(load, model.vocabulary_size, open_)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(run(asked["arm"], Load(**asked["load"]), asked["target"]))))
