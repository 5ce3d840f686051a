"""The load processes, as the command sees them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tokenwire._api_key import ApiKey
from tokenwire._channel import Tls
from tokenwire.bench.plan import Phase
from tokenwire.bench.vocabulary import Vocabulary
from tokenwire.cli.failures import CommandError

HEAD_START_S = 0.2
"""Between the word to start and the start, so that all processes have heard it."""

_LARGEST_LINE = 2**28
"""A phase's measures are some hundred KiB; more than this is a fault."""

_END_S = 10.0
"""A process that has nothing to do ends within a moment; one that does not is killed."""

Progress = Mapping[str, Any]


class Fleet:
    """Some load processes, which run one phase after the other."""

    def __init__(self) -> None:
        self._processes: list[Process] = []

    @property
    def process_ids(self) -> list[int]:
        """Of the load processes, in order."""
        return [each.pid for each in self._processes]

    async def start(
        self,
        count: int,
        target: str,
        tls: Tls | None,
        api_key: ApiKey | None,
        vocabulary: Vocabulary,
        connections: int,
    ) -> None:
        """Starts the processes, and tells them what is the same for all phases."""
        for index in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tokenwire.bench.loader",
                stdin=PIPE,
                stdout=PIPE,
                limit=_LARGEST_LINE,
                env={**os.environ, "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "NONE")},
                # Ctrl-C is the command's to hear, which then asks them for what they have.
                start_new_session=True,
            )
            self._processes.append(process)
            setup = {
                "index": index,
                "processes": count,
                "target": target,
                "tls": None if tls is None else {k: v and str(v) for k, v in asdict(tls).items()},
                # Over the pipe: others see a process's arguments.
                "api_key": None if api_key is None else api_key.value,
                "vocabulary": vocabulary.to_json(),
                "connections": connections,
            }
            self._say(process, {"setup": setup})

    async def run(
        self,
        phase: Phase,
        started: Callable[[float], None],
        progress: Callable[[int, Progress], None],
    ) -> list[dict[str, Any]]:
        """Runs a phase; returns what each process has measured.

        `started` is told the start, a time of time.monotonic; `progress` what each process tells.

        Raises:
            CommandError: a load process has ended by itself.
        """
        for process in self._processes:
            self._say(process, {"phase": phase.to_json()})
        for process in self._processes:
            await self._hear(process)
        start_s = time.monotonic() + HEAD_START_S
        started(start_s)
        for process in self._processes:
            self._say(process, {"start": start_s})
        return await asyncio.gather(
            *(self._result(number, each, progress) for number, each in enumerate(self._processes))
        )

    def stop(self) -> None:
        """Cuts the running phase short; its results come nevertheless."""
        for process in self._processes:
            self._say(process, {"stop": True})

    async def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
            except TimeoutError:
                self.kill()

    def kill(self) -> None:
        """Ends the processes at once."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()

    async def _result(
        self, number: int, process: Process, progress: Callable[[int, Progress], None]
    ) -> dict[str, Any]:
        while True:
            line = await self._hear(process)
            if "result" in line:
                result: dict[str, Any] = line["result"]
                return result
            progress(number, line["progress"])

    def _say(self, process: Process, line: Mapping[str, Any]) -> None:
        if process.stdin is not None and process.returncode is None:
            process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _hear(self, process: Process) -> dict[str, Any]:
        line = await process.stdout.readline() if process.stdout is not None else b""
        if not line:
            raise CommandError(f"a load process ended with exit code {await process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        return heard
