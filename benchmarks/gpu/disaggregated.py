"""Prefill and decode at workers of their own, both on one GPU: see README.md beside this file.

python -m benchmarks.gpu.disaggregated --out FOLDER [--parts exact,apart]

On one GPU this shows that it is exact, and what the way through two workers costs. What it is worth
takes a GPU for each: part `disaggregated` of `benchmarks.gpu.many`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tokenwire import Client

from benchmarks.gpu import demo
from benchmarks.gpu.context import Part, Run, finish, options, run_parts, running
from benchmarks.gpu.engines import DEMO, Variant, large
from benchmarks.gpu.processes import Service
from benchmarks.gpu.served import client

PROMPTS = {2048: 16, 8192: 6, 32_000: 2}
"""Requests at once, by the tokens of their prompts."""

OUTPUT_TOKENS = 128
WAVES = 3
"""Requests of each place."""

LONG_PROMPTS, LONG_TOKENS, ANSWER_TOKENS = 8, 3000, 64
"""Random prompts of the demo model."""

ENCODED = 4000
"""Ids of prompts are below this: the demo model's vocabulary."""

FLOAT32 = {**DEMO, "enforce_eager": True, "dtype": "float32"}


def variants(block_size: int | None) -> dict[str, Variant]:
    """Returns the engines; pairs have KV blocks of this many tokens, or of vLLM's choice."""
    blocks = {} if block_size is None else {"block_size": block_size}
    found = {
        "demo": Variant("demo", FLOAT32),
        # Three times the weights; two prompts of 32,000 tokens take 8.4 GB.
        "one": Variant("8b", large(14)),
    }
    for phases in ("prefill", "decode"):
        found[phases] = Variant("8b", large(14, **blocks), phases=phases)
        found[f"demo-{phases}"] = Variant("demo", {**FLOAT32, **blocks}, phases=phases)
    return found


def pair(run: Run, name: str, prefill: str, decode: str, *options: str) -> Service:
    """Returns a frontend of a worker for each phase, which goes on pairing however slow it is."""
    workers = [run.engines.pair(each).worker for each in (prefill, decode)]
    return run.services.frontend(name, workers, "--disaggregate-fetch-factor", "0", *options)


def modes(frontend: Service, prompt: list[int]) -> list[str]:
    """Returns what each worker did of a generation."""
    with Client(frontend.address, timeout=120) as asked:
        answer = asked.generate(prompt, max_tokens=4, temperature=0.0)
    return [each.mode for each in answer.attempts]


def exact(run: Run) -> None:
    """A pair answers as one worker does, with the demo model in float32."""
    one = run.engines.pair("demo").frontend
    every = ("--disaggregate-from-tokens", "1")
    both = pair(run, "demo-apart", "demo-prefill", "demo-decode", *every)
    source = random.Random(5)
    prompts = [source.choices(range(300, ENCODED), k=LONG_TOKENS) for _ in range(LONG_PROMPTS)]
    chats = [demo.answers(each.address) for each in (one, both)]
    longs = [_ids(each, prompts) for each in (one, both)]
    run.results["apart_exact"] = {
        "chats": sum(chats[0][prompt] == chats[1][prompt] for prompt in chats[0]),
        "of_chats": len(chats[0]),
        "long": sum(first == second for first, second in zip(*longs, strict=True)),
        "of_long": len(prompts),
        "modes": modes(both, source.choices(range(300, ENCODED), k=LONG_TOKENS)),
    }
    run.say(f"exact: {run.results['apart_exact']}")


def _ids(frontend: Service, prompts: list[list[int]]) -> list[list[int]]:
    with Client(frontend.address, timeout=120) as asked:
        return [
            asked.generate(
                prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True, temperature=0.0
            ).token_ids
            for prompt in prompts
        ]


def compare(run: Run, arms: Mapping[str, Service]) -> dict[str, Any]:
    """Runs prompts of each length against each arm; returns the figures by length and arm."""
    found: dict[str, Any] = {}
    for tokens, concurrency in PROMPTS.items():
        of_it: dict[str, Any] = {}
        found[str(tokens)] = of_it
        lengths = {"prompt_tokens": tokens, "output_tokens": OUTPUT_TOKENS}
        for name, frontend in arms.items():
            warm = run.load(concurrency, concurrency, **{**lengths, "output_tokens": 8})
            client("stream", warm, frontend.address)
            load = run.load(concurrency, WAVES * concurrency, **lengths)
            of_it[name] = figures = client("stream", load, frontend.address)
            run.say(
                f"{name:20} {tokens:6} tokens, {concurrency:3} at once: first token "
                f"{figures['ttft_p50_ms']:6.0f} ms, gap p99 {figures['gap_p99_ms']:6.1f} ms, "
                f"{figures['tokens_per_s']:7,.0f} tok/s"
            )
    return found


def one_gpu(run: Run) -> None:
    """What a pair costs against one worker, where both share a GPU."""
    arms = {
        "one worker": run.engines.pair("one").frontend,
        "a pair": pair(run, "apart", "prefill", "decode"),
    }
    seen = modes(arms["a pair"], random.Random(6).choices(range(300, ENCODED), k=4096))
    run.results["apart"] = {"modes": seen, **compare(run, arms)}


PARTS = {
    "exact": Part(exact, ("demo", "demo-prefill", "demo-decode"), 90, timed=False),
    "apart": Part(one_gpu, ("one", "prefill", "decode"), 120),
}


def main() -> None:
    """Runs the parts; exits with 1 where one failed."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--block-size", type=int, help="tokens of a KV block of the pair")
    chosen = parser.parse_args()
    with running(chosen, variants(chosen.block_size)) as run:
        run_parts(run, PARTS)
    finish(run)


if __name__ == "__main__":
    main()
