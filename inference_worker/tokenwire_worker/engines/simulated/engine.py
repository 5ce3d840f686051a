"""The simulated engine: it brings tokens when a real one would, and computes nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from tokenwire_worker.engines.port import (
    EngineInfo,
    EngineListener,
    EngineLoad,
    Generation,
    Step,
)
from tokenwire_worker.engines.simulated.clock import CLOCK
from tokenwire_worker.engines.simulated.faults import FaultKind
from tokenwire_worker.engines.simulated.scheduler import Fetch, Scheduler
from tokenwire_worker.engines.simulated.transfers import Transfers

LATE_S = 0.1
"""A step that ends later than it was due is made up for, since a real engine does not wait for this
process's threads; beyond this the time is lost, as after the machine was suspended."""

log = structlog.get_logger()


class NamedAdapters:
    """LoRA adapters of which only the names count: they are a part of what each id follows from."""

    async def load(self, name: str, path: Path) -> None:
        """Does nothing: the files are not looked at."""

    async def unload(self, name: str) -> None:
        """Does nothing."""


class SimulatedEngine:
    """Runs generations on a scheduler, by the process's clock.

    Args:
        info: what it says of itself.
        scheduler: says what each step takes and brings.
        transfers: its end of the transfers of KV caches; None: it has none.
    """

    def __init__(
        self, info: EngineInfo, scheduler: Scheduler, transfers: Transfers | None = None
    ) -> None:
        self._info = info
        self._scheduler = scheduler
        self._transfers = transfers
        if transfers is not None:
            # Blocks are given back between two steps, whoever says so.
            scheduler.hold = lambda release: transfers.hold(lambda: self._command(release))
        self._listener: EngineListener | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._load = EngineLoad(0, 0.0)
        self._progress = 0
        self._stepping = False
        """A step is under way."""
        self._began_s = self._due_s = 0.0
        """When that began and is to end."""
        self._started: list[int] = []
        """Generations that it takes up."""
        self._awake = False
        """The clock is to call."""
        self._waking = threading.Lock()
        """Guards whether it is; held for no longer than that takes."""
        self._gone = False
        """It has died, hangs, or is closed."""
        self._turn = threading.Lock()
        """Held for as long as one call of the clock takes."""

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds."""
        return self._info

    @property
    def lora(self) -> NamedAdapters:
        """Takes any adapter."""
        return NamedAdapters()

    def start(self, listener: EngineListener) -> None:
        """Has the listener hear of it from now on."""
        self._listener = listener
        if self._transfers is not None:
            self._transfers.start(listener.loop)

    async def check(self, generation: Generation) -> None:
        """Has nothing to try: guides are not supported."""

    def not_carried(self, generation: Generation) -> Sequence[str]:  # noqa: ARG002 - of the port
        """Returns nothing: an id follows from the ids before it, and from the seed where drawn."""
        return ()

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        self._command(lambda: self._scheduler.add(key, generation))

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it."""
        self._command(lambda: self._scheduler.cancel(key, sequence))

    def _command(self, command: Callable[[], None]) -> None:
        with self._waking:
            self._commands.append(command)
            if self._awake:
                return
            self._awake = True
        CLOCK.call_at(time.monotonic(), self._on_time)

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw."""
        return self._load

    def progress(self) -> int:
        """Returns how many steps have ended."""
        return self._progress

    def kill(self) -> None:
        """Does nothing: the engine has no process of its own; a stalled one uses no CPU."""

    def close(self) -> None:
        """Ends the engine, cancelling what it still holds."""
        with self._turn:
            if self._gone:
                return
            self._leave()
            self._obey()
            columns, outputs = self._scheduler.end_all()
            if outputs:
                self._tell(Step(outputs, [], time.monotonic(), columns))

    # --- on the clock's thread -------------------------------------------------------------------

    def _on_time(self) -> None:
        with self._turn:
            try:
                self._go_on()
            except Exception as error:
                # Others share the thread: this engine alone is at fault.
                log.exception("engine_fault", engine=self._info.engine)
                self._die(f"it met a fault: {error!r}")

    def _go_on(self) -> None:
        """Ends the step under way, and begins the next."""
        if self._gone:
            return
        self._obey()
        now_s = time.monotonic()
        if self._stepping:
            self._end_step()
        else:
            self._due_s = now_s
        if self._gone:
            return
        if not self._scheduler.busy:
            self._rest()
            return
        self._began_s = max(self._due_s, now_s - LATE_S)
        took_s, self._started = self._scheduler.begin_step()
        self._fetch()
        self._stepping = True
        self._due_s = self._began_s + took_s
        self._heed_faults()
        if not self._gone:
            CLOCK.call_at(self._due_s, self._on_time)

    def _fetch(self) -> None:
        """Has prompts fetched that are to come from other engines, and forgoes others."""
        scheduler, transfers = self._scheduler, self._transfers
        if transfers is None:
            return
        for fetch in scheduler.fetches:
            transfers.fetch(fetch.handle, fetch.tokens, partial(self._on_arrival, fetch))
        scheduler.fetches.clear()
        for handle in scheduler.forgone:
            transfers.forgo(handle)
        scheduler.forgone.clear()

    def _on_arrival(self, fetch: Fetch, tokens: int) -> None:
        self._command(lambda: self._scheduler.fetched(fetch, tokens))

    def _obey(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _rest(self) -> None:
        """Has the next command wake it."""
        self._load = EngineLoad(self._scheduler.running, self._scheduler.kv_cache_usage)
        with self._waking:
            again = self._awake = bool(self._commands)
        if again:
            CLOCK.call_at(time.monotonic(), self._on_time)

    def _end_step(self) -> None:
        self._stepping = False
        columns, outputs = self._scheduler.end_step()
        self._fetch()
        self._progress += 1
        self._tell(Step(outputs, self._started, self._began_s, columns))
        self._heed_faults()

    def _tell(self, step: Step) -> None:
        self._load = EngineLoad(self._scheduler.running, self._scheduler.kv_cache_usage)
        if self._listener is None:
            raise AssertionError("an engine runs once it is started. This is a bug.")
        events = self._scheduler.take_kv_events()
        if events:
            self._listener.on_kv_events(events)
        self._listener.on_step(step)

    def _heed_faults(self) -> None:
        """Meets the faults of the whole engine that have come."""
        for fault in self._scheduler.struck:
            log.warning("fault_on_command", fault=fault.text)
            if fault.kind is FaultKind.DIE:
                self._die(f"a fault on command, {fault.text}")
            self._leave()  # it hangs: it tells nothing any more
        self._scheduler.struck.clear()

    def _die(self, reason: str) -> None:
        self._leave()
        if self._listener is not None:
            self._listener.on_death(reason)

    def _leave(self) -> None:
        """Tells neither the worker nor other engines anything any more."""
        if not self._gone:
            self._gone = True
            if self._transfers is not None:
                self._transfers.close()
