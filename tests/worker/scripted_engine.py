"""An engine that computes nothing: a test says what it brings, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tokenwire_worker.engines.port import (
    GUIDED,
    Ability,
    Columns,
    EngineInfo,
    EngineListener,
    EngineLoad,
    Finish,
    Generation,
    KvEvent,
    Output,
    Step,
)

PLACES = 4
"""Sequences that it runs at once, unless a test says otherwise."""

EOS = 2


def info(**fields: Any) -> EngineInfo:
    """What it says of itself; `fields` are the port's own."""
    return EngineInfo(
        **{
            "engine": "scripted",
            "engine_version": "0",
            "context_tokens": 4096,
            "prompt_tokens": 4096,
            "vocabulary_size": 4096,
            "eos_token_ids": (EOS,),
            "running_sequences": PLACES,
            "kv_block_tokens": 16,
            "kv_blocks": 1024,
            "abilities": frozenset({Ability.LOGPROBS, Ability.TOP_LOGPROBS, *GUIDED}),
            "top_logprobs": 20,
            **fields,
        }
    )


class ScriptedEngine:
    """An Engine of the port, and the test's hands on it."""

    def __init__(self, **fields: Any) -> None:
        self.info = info(**fields)
        self.running: dict[int, Generation] = {}
        """What it was given, by key, in order; nothing is taken out but by the test."""
        self.cancels: list[tuple[int, int | None]] = []
        self.raises: Exception | None = None
        """What `submit` and `cancel` raise."""
        self.checks: list[asyncio.Future[None]] = []
        """One for each check that waits for the test's word."""
        self.uncarried: list[str] = []
        """What it says that it can't go on with."""
        self.lora: Any = None
        """What loads and unloads its LoRA adapters."""
        self.steps = 0
        self.killed = False
        self._listener: EngineListener | None = None

    # --- the port --------------------------------------------------------------------------------

    def start(self, listener: EngineListener) -> None:
        self._listener = listener

    async def check(self, _generation: Generation) -> None:
        word: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.checks.append(word)
        await word

    def not_carried(self, _generation: Generation) -> list[str]:
        return self.uncarried

    def submit(self, key: int, generation: Generation) -> None:
        if self.raises is not None:
            raise self.raises
        assert key not in self.running, "a number that is in use"
        self.running[key] = generation

    def cancel(self, key: int, sequence: int | None = None) -> None:
        self.cancels.append((key, sequence))
        if self.raises is not None:
            raise self.raises

    def load(self) -> EngineLoad:
        return EngineLoad(len(self.running), 0.0)

    def progress(self) -> int:
        return self.steps

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        """Nothing is left to end."""

    # --- the test's hands ------------------------------------------------------------------------

    @property
    def key(self) -> int:
        """What it was given last."""
        return next(reversed(self.running))

    async def step(self, *outputs: Output, started: Sequence[int] = ()) -> None:
        """Tells of a step; returns once the worker has heard."""
        self.steps += 1
        self._hear().on_step(Step(list(outputs), list(started)))
        await heard()

    async def columns(self, *entries: tuple[int, int, list[int]]) -> None:
        """Tells of a step that brought ids alone: key, sequence and ids of each entry."""
        columns = Columns()
        for key, sequence, ids in entries:
            columns.keys.append(key)
            columns.sequences.append(sequence)
            columns.counts.append(len(ids))
            columns.token_ids += ids
        self.steps += 1
        self._hear().on_step(Step(columns=columns))
        await heard()

    async def tokens(self, key: int, *ids: int, sequence: int = 0, **fields: Any) -> None:
        """Brings ids to one sequence; `fields` are Output's own."""
        await self.step(Output(key, sequence, list(ids), **fields))

    async def finish(self, key: int, *ids: int, how: Finish = Finish.LENGTH) -> None:
        """Ends every sequence of a generation."""
        sequences = range(self.running[key].sequence_count)
        await self.step(*(Output(key, each, list(ids), how) for each in sequences))

    async def confirm(self) -> None:
        """Ends whatever was cancelled, as the port has it."""
        for key, sequence in self.cancels:
            every = range(self.running[key].sequence_count)
            which = every if sequence is None else [sequence]
            await self.step(*(Output(key, each, [], Finish.CANCELLED) for each in which))
        self.cancels.clear()

    async def die(self, reason: str = "out of memory") -> None:
        self._hear().on_death(reason)
        await heard()

    async def publish(self, *events: KvEvent) -> None:
        self._hear().on_kv_events(events)
        await heard()

    def _hear(self) -> EngineListener:
        assert self._listener is not None, "it was not started"
        return self._listener


async def heard() -> None:
    """Lets the event loop run what the engine handed over."""
    for _ in range(2):
        await asyncio.sleep(0)
