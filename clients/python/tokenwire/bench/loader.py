"""One load process: `python -m tokenwire.bench.loader`, started by bench.fleet.

Standard input brings a JSON object a line: first the setup, then for each phase its plan and its
start; `{"stop": true}` cuts a phase short, and the end of the input ends the process. Standard
output answers a line each: ready, progress, and each phase's measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from tokenwire._api_key import ApiKey
from tokenwire._channel import Tls, open_async_channel
from tokenwire.bench import arrivals
from tokenwire.bench.calls import Calls, calls
from tokenwire.bench.measures import TIMEOUT, Histogram, Measures
from tokenwire.bench.plan import Flow, Phase
from tokenwire.bench.prompts import Conversation, Prompts
from tokenwire.bench.reading import Reading
from tokenwire.bench.vocabulary import Vocabulary
from tokenwire.channel_arguments import USE_LOCAL_SUBCHANNEL_POOL

PROGRESS_S = 1.0

CONNECT_S = 30.0
"""The command itself has just spoken with the frontend; longer is a fault between."""

TICK_S = 0.02
"""How often the loop's own lateness is measured."""

MOST_IN_FLIGHT = 20_000
"""Of an open loop in one process, whose server does not keep up; at some 20 KiB each."""

REST_S = 0.1
"""Of a closed loop after a failure without a time to try again: refusals are to cost the server
no more than answers."""

LONGEST_REST_S = 1.0


def share(total: int, index: int, processes: int) -> int:
    """Returns one process's share of a whole number."""
    return total // processes + (index < total % processes)


class Load:
    """One phase in this process."""

    def __init__(self, phase: Phase, setup: Mapping[str, Any], channels: list[Any]) -> None:
        self._phase = phase
        self._index, self._processes = setup["index"], setup["processes"]
        vocabulary = Vocabulary(**setup["vocabulary"])
        self._prompts = [Prompts(flow, phase, vocabulary) for flow in phase.flows]
        self._calls: list[Calls] = [
            calls(
                flow,
                channels,
                max(1, share(flow.sessions, self._index, self._processes)),
                phase.timeout_s,
            )
            for flow in phase.flows
        ]
        self._measures: list[Measures] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lag = Histogram()
        self._stopped = asyncio.Event()
        self._begin_s = self._end_s = 0.0
        self._cpu_s = 0.0

    def stop(self) -> None:
        """Cuts the phase short."""
        self._stopped.set()

    async def run(self, start_s: float) -> dict[str, Any]:
        """Runs the phase from a time of time.monotonic on; returns its measures."""
        phase = self._phase
        self._begin_s = start_s + phase.warmup_s
        self._end_s = self._begin_s + phase.duration_s
        self._measures = [
            Measures(self._begin_s, self._end_s, phase.objective, phase.seed) for _ in phase.flows
        ]
        await _until(start_s)
        for number, flow in enumerate(phase.flows):
            run = self._closed if flow.arrivals.kind == "closed" else self._open
            self._spawn(run(number, flow, start_s))
        helpers = [asyncio.create_task(each) for each in (self._tick(), self._report())]
        await _first_of(self._everything(), self._until_end(), self._stopped.wait())
        cpu_s = time.process_time() - self._cpu_s
        ended_s = min(time.monotonic(), self._end_s)
        self._end_s = ended_s  # nothing starts any more
        await _first_of(self._everything(), asyncio.sleep(phase.drain_s), self._stopped.wait())
        for task in (*self._tasks, *helpers):
            task.cancel()
        await asyncio.gather(*self._tasks, *helpers, return_exceptions=True)
        for each in self._calls:
            await each.close()
        window_s = max(0.0, ended_s - self._begin_s)
        return {
            "window_s": window_s,
            "cpu_s": cpu_s if window_s else 0.0,
            "lag": self._lag.to_json(),
            "flows": [each.to_json() for each in self._measures],
        }

    async def _until_end(self) -> None:
        await _until(self._begin_s)
        self._cpu_s = time.process_time()
        await _until(self._end_s)

    async def _everything(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A fault of this program: the command reports what stands on standard error.
            raise SystemExit(f"load process: {task.exception()!r}. This is a bug.")

    # --- closed loop

    async def _closed(self, number: int, flow: Flow, _: float) -> None:
        numbers = count(self._index, self._processes)
        for _ in range(share(flow.arrivals.concurrency, self._index, self._processes)):
            self._spawn(self._place(number, numbers))

    async def _place(self, number: int, numbers: count[int]) -> None:
        while time.monotonic() < self._end_s:
            conversation = self._prompts[number].conversation(next(numbers))
            rest_s = await self._converse(number, conversation, conversation.request(), None)
            if rest_s:
                await asyncio.sleep(rest_s)

    # --- open loop

    async def _open(self, number: int, flow: Flow, start_s: float) -> None:
        schedule = arrivals.starts(flow.arrivals, self._phase.seed, self._index, self._processes)
        for start in schedule:
            at_s = start_s + start.at_s
            if at_s >= self._end_s:
                return
            # Made before its time, which making it would otherwise delay.
            conversation = self._prompts[number].conversation(start.number, start.entry)
            request = conversation.request()
            await _until(at_s)
            if self._measures[number].in_flight >= MOST_IN_FLIGHT:
                self._measures[number].not_sent(at_s)
            else:
                self._spawn(self._converse(number, conversation, request, at_s))

    async def _converse(
        self, number: int, conversation: Conversation, request: Any, intended_s: float | None
    ) -> float | None:
        """Runs a conversation; returns how long to rest after a failure."""
        measures, perform = self._measures[number], self._calls[number].perform
        while True:
            begin_s = time.monotonic() if intended_s is None else intended_s
            reading = Reading(measures, begin_s, conversation.goes_on)
            measures.started(reading)
            try:
                async with asyncio.timeout(self._phase.timeout_s):
                    await perform(request, reading)
            except TimeoutError:
                reading.reason = TIMEOUT
            except asyncio.CancelledError:
                measures.cut(reading)
                raise
            measures.ended(reading, time.monotonic())
            if reading.reason:
                return min(LONGEST_REST_S, reading.retry_after_s or REST_S)
            think_s = conversation.answered(reading)
            if think_s is None or time.monotonic() + think_s >= self._end_s:
                return None
            if think_s:
                await asyncio.sleep(think_s)
            request, intended_s = conversation.request(), None

    # --- about itself

    async def _tick(self) -> None:
        await _until(self._begin_s)
        while True:
            due_s = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lag.add(max(0.0, time.monotonic() - due_s))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            recent_s: list[float] = []
            for each in self._measures:
                recent_s += each.recent_ttft_s
                each.recent_ttft_s = []
            told = ("tokens_so_far", "ended_so_far", "failed_so_far", "in_flight")
            line = {name: sum(getattr(each, name) for each in self._measures) for name in told}
            recent_s.sort()
            _say(
                {"progress": {**line, "ttft_s": recent_s[len(recent_s) // 2] if recent_s else None}}
            )


async def _until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


async def _first_of(*work: Any) -> None:
    """Returns when one of several is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)


class _Commands:
    """The lines of standard input; a stop reaches the phase that runs at once."""

    def __init__(self) -> None:
        self.load: Load | None = None
        self._lines: asyncio.Queue[Any] = asyncio.Queue()

    async def read(self) -> None:
        """Reads to the end of the input, which stops the phase too."""
        # A line holds at most a vocabulary or a plan.
        reader = asyncio.StreamReader(limit=2**22)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            command = json.loads(line)
            if "stop" not in command:
                self._lines.put_nowait(command)
            elif self.load is not None:
                self.load.stop()
        self._lines.put_nowait(None)
        if self.load is not None:
            self.load.stop()

    async def next(self, name: str) -> Any:
        """Returns the next command of this name, or None at the end of the input."""
        command = await self._lines.get()
        return None if command is None else command[name]


async def _serve() -> None:
    commands = _Commands()
    reading = asyncio.create_task(commands.read())
    setup = await commands.next("setup")
    tls = Tls(**setup["tls"]) if setup["tls"] is not None else None
    key = ApiKey(setup["api_key"]) if setup["api_key"] is not None else None
    own_connection = ((USE_LOCAL_SUBCHANNEL_POOL, 1),)
    channels = [
        open_async_channel(setup["target"], tls, own_connection, api_key=key)
        for _ in range(setup["connections"])
    ]
    try:
        async with asyncio.timeout(CONNECT_S):
            for each in channels:
                await each.channel_ready()
    except TimeoutError:
        sys.exit(f"load process: no connection to {setup['target']} within {CONNECT_S:g} s")
    while (plan := await commands.next("phase")) is not None:
        commands.load = Load(Phase.from_json(plan), setup, channels)
        _say({"ready": True})
        start_s = await commands.next("start")
        if start_s is None:
            break
        _say({"result": await commands.load.run(start_s)})
        commands.load = None
    await reading
    for each in channels:
        await each.close()


def main() -> None:
    """Runs the process until its input ends, or the command is gone and reads no more."""
    with suppress(BrokenPipeError):
        _run()


def _run() -> None:
    try:
        # Installed with the services, and a tenth to a third cheaper for each message.
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:
        asyncio.run(_serve())
    else:
        uvloop.run(_serve())


if __name__ == "__main__":
    main()
