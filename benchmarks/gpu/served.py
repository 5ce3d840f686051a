"""The served arms: a client process against a frontend that runs already."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from tokenwire import AsyncClient

from benchmarks.gpu.load import Load, drive
from benchmarks.gpu.processes import ROOT, Pair


def measure(arm: str, load: Load, pair: Pair) -> dict[str, float]:
    """Runs the load against a pair, as `client` does.

    Returns:
        Its figures, and the CPU time that worker and frontend took for each token.
    """
    before = pair.cpu_s()
    figures = client(arm, load, pair.frontend.address)
    for name, spent_s in pair.cpu_s().items():
        figures[f"{name}_us_per_token"] = (spent_s - before[name]) / figures["tokens"] * 1e6
    return figures


def client(arm: str, load: Load, target: str) -> dict[str, float]:
    """Runs the load against a frontend, by a client in a process of its own.

    Args:
        arm: `stream`, a StreamGenerate call for each request, or `session`, one Session for all.
        load: what to run.
        target: the frontend's HOST:PORT.

    Returns:
        Its figures; see `drive`.

    Raises:
        RuntimeError: the client failed.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu.served"),
            json.dumps({"arm": arm, "load": vars(load), "target": target}),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the {arm} arm failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def run(arm: str, load: Load, target: str) -> dict[str, float]:
    """Runs the load in this process."""
    options: dict[str, Any] = {"ignore_eos": True, "temperature": 0.0}
    async with AsyncClient(target, timeout=600) as client, client.session() as session:
        open_stream = client.stream if arm == "stream" else session.open
        (model,) = await client.models()

        async def open_(prompt: list[int], tokens: int) -> AsyncIterator[int]:
            async for delta in open_stream(prompt, max_tokens=tokens, **options):
                yield len(delta.token_ids)

        return await drive(load, model.vocabulary_size, open_)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(run(asked["arm"], Load(**asked["load"]), asked["target"]))))
