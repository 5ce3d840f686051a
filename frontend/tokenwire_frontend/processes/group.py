"""The supervising process of a frontend that has several: it starts them and watches over them.

It serves nothing itself but the admin port. A process that ends by itself is started again, after
a wait that grows from one such end to the next. SIGUSR1 has one after the other drain and start
anew.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import structlog
from tokenwire_service import signals
from tokenwire_service.admin import admin_port
from tokenwire_service.ports import SharedAddress
from tokenwire_service.server import log_draining
from tokenwire_service.settings import EX_USAGE
from tokenwire_service.tasks import (
    EX_SOFTWARE,
    RESTART_FIRST_S,
    RESTART_MOST_S,
    SETTLED_S,
    Supervisor,
    first_of,
)
from tokenwire_service.telemetry import metrics, registry, semconv
from tokenwire_service.telemetry.collected import Totals, added
from tokenwire_service.telemetry.metrics import Attributes, Tally
from tokenwire_service.telemetry.providers import Telemetry
from tokenwire_service.tls import ChannelTls, ServerTls

from tokenwire_frontend.core.signer import KEY_BYTES
from tokenwire_frontend.processes.link import ANSWER_S, Answers
from tokenwire_frontend.processes.serving import STATES, ServingProcess
from tokenwire_frontend.settings import FrontendSettings

REPLACED_S = 60.0
"""Time until a process that was started anew serves, as the one before it did. Where it takes
longer, the others are left as they are."""

SUPERVISOR = "supervisor"
"""What this process is called in log lines, where those that serve have numbers."""

log = structlog.get_logger()


async def supervise(
    chosen: FrontendSettings, arguments: Sequence[str], telemetry: Telemetry
) -> int:
    """Runs the processes until it is told to stop; returns the exit code.

    Args:
        chosen: the frontend's settings.
        arguments: what they are from, beside the environment.
        telemetry: of this process.

    Raises:
        ListenError: an address can't be listened on.
        TlsError: a file of TLS can't be used.
    """
    reloads = asyncio.Event()
    stop = signals.stop_signal(reloads.set)
    # Each process would say the same of them.
    ServerTls(chosen.tls)
    for tls, setting in ((chosen.worker_tls, "--worker-tls."), (chosen.peer_tls, "--peer-tls.")):
        ChannelTls(tls, setting)
    with ExitStack() as kept:
        shared = kept.enter_context(closing(SharedAddress("--listen", chosen.listen))).address
        openai = ""
        if chosen.openai_listen is not None:
            taken = SharedAddress("--openai-listen", chosen.openai_listen)
            openai = kept.enter_context(closing(taken)).address
        async with Supervisor() as supervisor:
            group = ProcessGroup(chosen, arguments, shared, openai, telemetry, supervisor)
            supervisor.keep("reload", partial(group.reload, reloads))
            async with admin_port(
                chosen.admin_listen, lambda: group.serving, group.scrape, group.describe
            ):
                return await group.run(stop)


class ProcessGroup:
    """The processes.

    Args:
        chosen: the frontend's settings.
        arguments: what they are from, beside the environment.
        shared: HOST:PORT that all listen on.
        openai: likewise of the OpenAI-compatible interface; empty: it is off.
        telemetry: of this process.
        supervisor: owns a task for each process.
    """

    def __init__(
        self,
        chosen: FrontendSettings,
        arguments: Sequence[str],
        shared: str,
        openai: str,
        telemetry: Telemetry,
        supervisor: Supervisor,
    ) -> None:
        self._drain_grace_s = chosen.drain_grace_s
        self._telemetry = telemetry
        self._supervisor = supervisor
        answers: Answers = {
            "everyone": self._everyone,
            "address": self._address,
            "claim": self._claim,
            "release": self._release,
        }
        secret = secrets.token_bytes(KEY_BYTES)
        self._processes = [
            ServingProcess(index, shared, own, openai, arguments, answers, secret)
            for index, own in enumerate(own_addresses(chosen.process_listen, chosen.processes))
        ]
        self._keys: dict[str, str] = {}
        # The process that has the generation of each idempotency key, by its name.
        self._totals = Totals()
        self._refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done where a process can't start as it is told to."""
        self._stopping = self._rolling = False
        self._codes: list[int] = []
        """Exit codes of the processes that were told to end because all do."""
        self._restarts = Tally(registry.PROCESS_RESTARTS)
        metrics.gauge(registry.PROCESSES, self._states)

    @property
    def serving(self) -> bool:
        """Whether at least one welcomes work."""
        return any(each.state == "serving" for each in self._processes)

    def describe(self) -> list[dict[str, Any]]:
        """Returns what the admin port shows of each process."""
        return [each.description() for each in self._processes]

    async def run(self, stop: asyncio.Future[None]) -> int:
        """Runs them until the future is done; returns the exit code."""
        for each in self._processes:
            self._supervisor.require("process", partial(self._keep, each), process=each.index)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._begin_roll)
        await first_of(stop, self._refused, self._supervisor.failed)
        self._stopping = True
        if stop.done():
            log_draining(self._drain_grace_s)
        ends = [
            self._supervisor.keep("process_end", partial(each.end, self._drain_grace_s))
            for each in self._processes
        ]
        await asyncio.wait(ends)
        if self._refused.done():
            return EX_USAGE
        if self._supervisor.failed.done() or any(self._codes):
            log.critical("ended_badly", exit_codes=self._codes)
            return EX_SOFTWARE
        log.info("stopped")
        return 0

    async def reload(self, asked: asyncio.Event) -> None:
        """Has every process read its files again, each time that it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            await self._everyone("reload")

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics of all, summed, and their content type."""
        answers = await self._everyone("metrics")
        for each in self._processes:
            # One that has ended meanwhile has been counted.
            if each.address is not None and each.name in answers:
                self._totals.take(each.name, answers[each.name])
        total = self._totals.total()
        return await asyncio.to_thread(
            lambda: self._telemetry.render(added([self._telemetry.collect(), total]), accept)
        )

    async def _keep(self, process: ServingProcess) -> None:
        """Runs the process again and again."""
        while not self._stopping:
            code = await process.run(waits=self.serving)
            if process.final is not None:
                self._totals.take(process.name, process.final)
            self._totals.leave(process.name)
            self._keys = {key: name for key, name in self._keys.items() if name != process.name}
            if self._stopping:
                self._codes.append(code)
            elif code == EX_USAGE and not process.has_listened:
                if not self._refused.done():
                    self._refused.set_result(None)
                return
            elif not process.told_to_end:
                await self._wait(process, code)

    async def _wait(self, process: ServingProcess, code: int) -> None:
        """Waits before a process that has ended by itself is started again."""
        if process.running_s >= SETTLED_S:
            process.wait_s = RESTART_FIRST_S
        log.error(
            "process_ended", process=process.index, exit_code=code, restart_in_s=process.wait_s
        )
        await asyncio.sleep(process.wait_s * random.uniform(0.5, 1.0))  # noqa: S311
        process.wait_s = min(process.wait_s * 2, RESTART_MOST_S)
        process.restarts += 1
        self._restarts.count(str(process.index)).value += 1

    async def _everyone(self, topic: str, *arguments: Any) -> dict[str, Any]:
        """Returns what each process that answers in time says, by the name of its run."""
        asked = {
            each.name: each.link.ask(topic, *arguments)
            for each in self._processes
            if each.link is not None and each.address is not None
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=ANSWER_S)
        answers = {}
        for name, answer in asked.items():
            if not answer.done():
                answer.cancel()
            elif answer.exception() is None:
                answers[name] = answer.result()
        return answers

    async def _address(self, name: str) -> str | None:
        """Returns the address of a process by the name of its run, if it runs."""
        return next((each.address for each in self._processes if each.name == name), None)

    async def _claim(self, name: str, key: str) -> str | None:
        """Gives a process the key, unless another has it: returns the address of that one."""
        holder = self._keys.get(key, name)
        address = None if holder == name else await self._address(holder)
        if address is None:
            self._keys[key] = name
        return address

    async def _release(self, name: str, key: str) -> None:
        if self._keys.get(key) == name:
            del self._keys[key]

    def _begin_roll(self) -> None:
        if self._rolling or self._stopping:
            log.warning("rolling_restart_refused", reason="one is under way, or all stop")
            return
        self._rolling = True
        self._supervisor.keep("rolling_restart", self._roll)

    async def _roll(self) -> None:
        """Has one after the other drain and start anew."""
        try:
            for each in self._processes:
                if not await self._replaced(each):
                    log.error("rolling_restart_given_up", process=each.index, waited_s=REPLACED_S)
                    return
            log.info("rolling_restart_done")
        finally:
            self._rolling = False

    async def _replaced(self, process: ServingProcess) -> bool:
        """Replaces the process; returns whether the new one does as the old one did."""
        run, served = process.runs, process.serving
        await process.end(self._drain_grace_s)
        return await process.until(
            lambda: (
                process.runs > run
                and process.address is not None
                and (process.serving or not served)
            ),
            REPLACED_S,
        )

    def _states(self) -> Iterable[tuple[float, Attributes]]:
        counted = Counter(each.state for each in self._processes)
        return [(counted[state], {semconv.PROCESS_STATE: state}) for state in STATES]


def own_addresses(first: str, count: int) -> list[str]:
    """Returns the address of each process: the first one's counted up, or port 0 for all."""
    host, _, port = first.rpartition(":")
    return [f"{host}:{int(port) + index if int(port) else 0}" for index in range(count)]
