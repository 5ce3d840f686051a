"""Mixed load with cancels, deadlines and refusals: what both services hold before and after.

    python -m benchmarks.stress.soak [--minutes 10]

Streams, sessions, answers, guides, chats and tokenising go on at the same time. Some callers hang
up, some set deadlines or time budgets that pass, some send what is refused, and the worker's queue
is short, so that it refuses too. After the load, places, handles, descriptors, threads and memory
must be what they were after the first five minutes of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from tokenwire import AsyncClient, RetryPolicy, TokenwireError

from benchmarks.stress.services import LOGS, Held, faults, pair

WARM_S = 300.0
"""Caches and allocators have reached their size by then: OpenVINO's process took 180 MiB at
first, 470 after one minute, 665 after four, and 694 from the seventh on."""

IDLE_S = 120.0
"""Longest wait for the last generations to end once the load has stopped."""

CALLERS = 40
MEMORY_GROWTH_MIB = 64
"""Growth that is noise: what an allocator keeps of a load that differs from minute to minute."""

# A small KV cache, whose pages have all been touched before the load is measured.
WORKER_OPTIONS = (
    "--max-waiting-requests", "8", "--openvino.max-sequences", "16", "--openvino.kv-blocks", "1024"
)  # fmt: skip


class Load:
    """Callers of every kind, until told to stop."""

    def __init__(self, client: AsyncClient, seed: int) -> None:
        self._client = client
        self._source = Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.stopping = False

    async def caller(self) -> None:
        """One call after the other."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._stream, self._hang_up, self._session, self._generate, self._guided, self._chat,
            self._refused, self._tokenize,
        ]  # fmt: skip
        while not self.stopping:
            kind = self._source.choice(kinds)
            name = kind.__name__.strip("_")
            try:
                async with asyncio.timeout(60):
                    await kind()
                self.outcomes[f"{name} ok"] += 1
            except TokenwireError as error:
                self.outcomes[f"{name} {error.reason or type(error).__name__}"] += 1
            except TimeoutError:
                self.outcomes[f"{name} HANG"] += 1

    def _prompt(self) -> str:
        words = self._source.randrange(1, 60)
        return " ".join(str(self._source.randrange(1000)) for _ in range(words))

    async def _stream(self) -> None:
        options = self._source.choice(
            ({}, {"timeout": 0.3}, {"time_budget": 0.2}, {"n": 3}, {"stop": ["1", "e "]})
        )
        async with self._client.stream(self._prompt(), max_tokens=60, **options) as stream:
            async for _ in stream:
                pass

    async def _hang_up(self) -> None:
        async with self._client.stream(self._prompt(), max_tokens=400, ignore_eos=True) as stream:
            left = self._source.randrange(4)
            async for _ in stream:
                left -= 1
                if left < 0:
                    break

    async def _session(self) -> None:
        async with self._client.session() as session:
            opened = [
                session.open(self._prompt(), max_tokens=self._source.randrange(1, 80))
                for _ in range(self._source.randrange(1, 12))
            ]
            for place, generation in enumerate(opened):
                if place % 3 == 2:
                    await generation.cancel()
                    continue
                try:
                    async for _ in generation:
                        pass
                except TokenwireError as error:
                    self.outcomes[f"session's {error.reason}"] += 1

    async def _generate(self) -> None:
        await self._client.generate(self._prompt(), max_tokens=30, timeout=2, logprobs=True)

    async def _guided(self) -> None:
        schema = {
            "type": "object",
            "properties": {f"a{self._source.randrange(40)}": {"type": "integer"}},
        }
        await self._client.generate("JSON: ", json_schema=json.dumps(schema), max_tokens=24)

    async def _chat(self) -> None:
        await self._client.generate(
            chat=[{"role": "user", "content": self._prompt()}], max_tokens=20, time_budget=1.0
        )

    async def _refused(self) -> None:
        options = self._source.choice(
            ({"temperature": -1.0}, {"max_tokens": 10**6}, {"model": "none"}, {"regex": "("})
        )
        await self._client.generate("x", **options)

    async def _tokenize(self) -> None:
        ids = (await self._client.tokenize(self._prompt() * 50)).token_ids
        await self._client.detokenize(ids)


async def _rest(client: AsyncClient) -> str:
    """Waits until nothing is held any more, and returns what still is."""
    end_s = time.monotonic() + IDLE_S
    while True:
        async for activity in client.activity():
            held = activity.active_generations
            workers = [(each.running, each.waiting, each.in_flight) for each in activity.workers]
            break
        if (not held and not any(map(any, workers))) or time.monotonic() > end_s:
            return f"generations {held}, workers (running, waiting, in flight) {workers}"
        await asyncio.sleep(0.2)


async def _run(target: str, minutes: float, held: Callable[[], dict[str, Held]]) -> bool:
    async with AsyncClient(target, retry=RetryPolicy(attempts=1)) as client:
        load = Load(client, seed=1)
        before: dict[str, Held] = {}
        for seconds in (WARM_S, minutes * 60):
            load.stopping = False
            callers = [asyncio.create_task(load.caller()) for _ in range(CALLERS)]
            await asyncio.sleep(seconds)
            load.stopping = True
            await asyncio.gather(*callers)
            rest = await _rest(client)
            now = held()
            print(f"after {seconds:.0f} s: {rest}; {now}")
            before = before or now
    print(dict(load.outcomes.most_common()))
    grown = [
        name
        for name, after in now.items()
        if after.descriptors > before[name].descriptors
        or after.threads > before[name].threads
        or after.memory_mib > before[name].memory_mib + MEMORY_GROWTH_MIB
    ]
    print("grown:", ", ".join(grown) or "none")
    hung = any("HANG" in outcome or "INTERNAL" in outcome for outcome in load.outcomes)
    return not grown and not hung and "generations 0" in rest


def main() -> None:
    """Runs, prints what was held, and exits with 1 where something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with pair(WORKER_OPTIONS) as services:
        services.wait_until_ready()
        ids = services.process_ids

        def held() -> dict[str, Held]:
            return {name: Held.by(process_id) for name, process_id in ids.items()}

        right = asyncio.run(_run(services.frontend, minutes, held))
    logged = faults()
    print(f"faults in the logs ({LOGS}): {len(logged)}", *logged[:5], sep="\n")
    sys.exit(0 if right and not logged else 1)


if __name__ == "__main__":
    main()
