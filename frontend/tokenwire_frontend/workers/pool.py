"""The workers that this frontend knows, the models that they serve, and the choice among them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from weakref import WeakValueDictionary

import structlog
from tokenwire_service.errors import ServiceError
from tokenwire_service.tasks import Supervisor
from tokenwire_service.tls import Credentials

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.core.link_state import SERVING, TICK_S, AwakeClock, LinkState
from tokenwire_frontend.core.model import common_limits
from tokenwire_frontend.core.routing.least_loaded import LeastLoaded
from tokenwire_frontend.core.routing.router import Choice, RoutedPrompt, Router
from tokenwire_frontend.models.files import ModelFilesError
from tokenwire_frontend.models.model import Model, build_model
from tokenwire_frontend.models.output_formats import ParserNames
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers import readiness
from tokenwire_frontend.workers.kv_watch import KvWatch
from tokenwire_frontend.workers.link import LinkLimits, WorkerLink
from tokenwire_frontend.workers.messages import WorkerInfo
from tokenwire_frontend.workers.pairings import Pairings, group_of
from tokenwire_frontend.workers.readiness import candidate
from tokenwire_frontend.workers.remote import Remote, WorkerRefusedError

log = structlog.get_logger()


class WorkerPool:
    """All links and models; `set_workers` says which workers there are.

    Args:
        credentials: of each connection to a worker.
        router: chooses among the ready workers.
        tokenizers: what builds the workers' models.
        limits: what links bear and send.
        parsers: in which formats the models' outputs are read.
        supervisor: owns the links' tasks.
        on_gone: told of the address of each worker that is known no more.
        disaggregate_from_tokens: tokens of a prompt, in the KV cache of none of the workers that it
            could go to, from which a worker for prefill computes it; 0: none does.
        disaggregate_fetch_factor: see Pairings.
    """

    def __init__(
        self,
        credentials: Credentials,
        router: Router,
        tokenizers: TokenizerPool,
        limits: LinkLimits,
        parsers: ParserNames,
        supervisor: Supervisor,
        on_gone: Callable[[str], None],
        disaggregate_from_tokens: int = 0,
        disaggregate_fetch_factor: float = 0.0,
    ) -> None:
        self._credentials = credentials
        self._limits = limits
        self._supervisor = supervisor
        self._on_gone = on_gone
        self.router = router
        """Chooses among the ready workers."""
        self._by_load = LeastLoaded()
        self._disaggregate_from_tokens = disaggregate_from_tokens
        self.pairings = Pairings(disaggregate_fetch_factor)
        """Where workers for prefill are worth their transfers."""
        self._parsers = parsers
        self._tokenizers = tokenizers
        self.clock = AwakeClock()
        """What the silence of workers is counted on."""
        self.models: dict[str, Model] = {}
        """By name: of each worker the one that it last described, ready or not. So a worker that is
        down keeps its model known while it is listed, and one that comes back with another lets go
        of it."""
        self._meeting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By the fingerprint of a tokenizer: held while a worker with it is met."""
        self.links: tuple[WorkerLink, ...] = ()
        """To the workers that are listed, and those that were and still hold something. Another
        takes its place when one comes or goes, since other threads read it."""
        self._tasks: dict[WorkerLink, asyncio.Task[None]] = {}
        self._leaving: list[WorkerLink] = []
        """Those whose workers are not listed."""
        self.changed = asyncio.Event()
        """Set whenever a worker has come, gone or changed its state."""
        self._turned = asyncio.Event()
        """Set at the next such change, once; another takes its place."""
        self._clock_task = supervisor.keep("worker_clock", self._tick)

    def set_workers(self, workers: Mapping[str, str]) -> None:
        """Takes the list of workers.

        Those that are new are connected. Those that have gone from it get nothing new, and their
        links end once they hold nothing.

        Args:
            workers: by address, HOST:PORT, the name that the worker's certificate has; empty: the
                address's host.
        """
        for link in self.links:
            if link.listed != (link.address in workers):
                link.set_listed(listed=not link.listed)
            if link.listed:  # another source may have it now, by another name
                link.tls_name = workers[link.address]
        self._leaving = [link for link in self.links if not link.listed]
        self._let_go()
        known = {link.address for link in self.links}
        for address, tls_name in workers.items():
            if address not in known:
                self._join(address, tls_name)
        self._update()

    def _join(self, address: str, tls_name: str) -> None:
        link = WorkerLink(
            address,
            self._credentials,
            self._limits,
            self.clock,
            self._meet,
            self._update,
            self._follow,
            tls_name,
        )
        self.links = (*self.links, link)
        self._tasks[link] = self._supervisor.keep("worker_link", link.run, address=address)

    def _let_go(self) -> None:
        """Ends the links of workers that are not listed and hold nothing."""
        gone = {link for link in self._leaving if not link.in_flight}
        if not gone:
            return
        self._leaving = [link for link in self._leaving if link not in gone]
        self.links = tuple(link for link in self.links if link not in gone)
        for link in gone:
            self._tasks.pop(link).cancel()
            self.router.forget(link.address)
            self._on_gone(link.address)
            log.info("worker_gone", address=link.address)
        self._update()

    def model(self, name: str, field: str) -> Model:
        """Returns the named model, or the only one if the name is empty.

        Args:
            name: the model's name, or empty.
            field: path of the request field that names it, for the error.

        Raises:
            ServiceError: no such model, several and none named, or none known yet.
        """
        if name in self.models:
            return self.models[name]
        if not self.models:
            raise errors.no_worker(name)
        if name:
            raise errors.unknown_model(name, sorted(self.models))
        if len(self.models) > 1:
            raise errors.model_not_named(sorted(self.models), field)
        return next(iter(self.models.values()))

    def known_name(self, name: str) -> str:
        """Returns the name of the model that this name means, or empty where none is known."""
        if name:
            return name if name in self.models else ""
        return next(iter(self.models)) if len(self.models) == 1 else ""

    def route(
        self,
        model: Model,
        prompt: RoutedPrompt,
        tried: Collection[WorkerLink] = (),
    ) -> tuple[WorkerLink, Choice]:
        """Chooses a ready worker for the prompt among those not tried yet.

        Raises:
            ServiceError: NO_WORKER.
        """
        links = [link for link in self.ready(model.name, prompt.lora_adapter) if link not in tried]
        return _choose(self.router, model, prompt, links)

    def prefers_prefill(self, model: Model, prompt: RoutedPrompt) -> bool:
        """Returns whether a worker for prefill is to compute the prompt for another.

        It is where there are such workers, whose prompts are fetched fast enough, and so much of
        the prompt is in the KV cache of none of those that could go on with it.
        """
        least = self._disaggregate_from_tokens
        if not least or len(prompt.ids) < least or not self._for_prefill(model, prompt):
            return False
        others = [candidate(link) for link in self.ready(model.name, prompt.lora_adapter)]
        return len(prompt.ids) - self.router.held(prompt, others) >= least

    def route_prefill(
        self, model: Model, prompt: RoutedPrompt, tried: Collection[WorkerLink] = ()
    ) -> tuple[WorkerLink, Choice]:
        """Chooses a worker to compute the prompt for another, as `route` does.

        Raises:
            ServiceError: NO_WORKER.
        """
        links = [link for link in self._for_prefill(model, prompt) if link not in tried]
        link, choice = _choose(self.router, model, prompt, links)
        self.pairings.sent(link)
        return link, choice

    def route_fetch(
        self,
        model: Model,
        prompt: RoutedPrompt,
        transfer_group: str,
        tried: Collection[WorkerLink] = (),
    ) -> tuple[WorkerLink, Choice]:
        """Chooses a worker that can fetch the prompt, by load: what it has cached saves little.

        Raises:
            ServiceError: NO_WORKER.
        """
        known = [
            link for link in self._serving(model.name, prompt.lora_adapter) if link not in tried
        ]
        links = readiness.for_fetching(known, transfer_group)
        link, choice = _choose(self._by_load, model, prompt, links)
        self.router.sent(prompt, candidate(link))
        return link, choice

    def _for_prefill(self, model: Model, prompt: RoutedPrompt) -> list[WorkerLink]:
        links = readiness.for_prefill(self._serving(model.name, prompt.lora_adapter))
        return [link for link in links if self.pairings.allows(link)]

    def _serving(self, model: str, lora_adapter: str = "") -> list[WorkerLink]:
        return readiness.serving(self.links, model, lora_adapter)

    def ready(self, model: str, lora_adapter: str = "") -> list[WorkerLink]:
        """Returns the links of the workers that get generations of the model.

        With a LoRA adapter, only those that have it. Those that are for prefill, or fail or are
        silent, get some only where no worker is better.
        """
        return readiness.for_generations(self._serving(model, lora_adapter))

    def is_ready(self, model: str) -> bool:
        """Returns whether any worker gets requests for the model."""
        return bool(self.ready(model))

    def away_s(self, model: str) -> float:
        """Returns for how long no worker of the model has been ready; infinite: it is not known."""
        known = self.models.get(model)
        if known is None:
            return math.inf
        return 0.0 if known.ready_workers else time.monotonic() - known.left_s

    def places(self, model: str) -> int:
        """Returns how many sequences the ready workers' engines run at once."""
        return sum(link.info.running_limit for link in self.ready(model) if link.info)

    def has_room(self, model: str, more: int, ahead: float | None) -> bool:
        """Returns whether ready workers have room for so many more requests.

        It is as right as the workers' last load reports, which come within 200 ms of a change.
        Where none is ready it is true, since no queue helps: see `route`.

        Args:
            model: their model.
            more: how many.
            ahead: see Candidate.room.
        """
        links = self.ready(model)
        room = 0.0
        for link in links:
            room += candidate(link).room(ahead)
            if room >= more:
                return True
        return not links

    def too_late(self, model: str, budget_s: float, lora_adapter: str = "") -> ServiceError | None:
        """Returns the refusal of one more request that would wait for longer than it has.

        None where a ready worker has room, or does not say how long it would wait there.

        Args:
            model: its model.
            budget_s: what is left of its time budget, in seconds.
            lora_adapter: what its worker has to have; empty: none.
        """
        ready = map(candidate, self.ready(model, lora_adapter))
        waits = [each.wait_s for each in ready if not each.full]
        known = [wait_s for wait_s in waits if wait_s is not None]
        if not known or len(known) < len(waits) or min(known) <= budget_s:
            return None
        return no_room.budget_too_short(model, budget_s, min(known))

    async def _tick(self) -> None:
        while True:
            self.clock.tick(time.monotonic())
            for link in self.links:
                link.tick()
            self._let_go()
            await asyncio.sleep(TICK_S)

    async def _meet(self, link: WorkerLink, info: WorkerInfo, remote: Remote) -> None:
        """Takes a worker's model, or refuses a worker whose tokenizer is not the model's."""
        # Workers with one tokenizer come together when a frontend starts: the first brings it.
        with_this = self._meeting.setdefault(info.tokenizer_fingerprint, asyncio.Lock())
        async with with_this:
            if self._suits(link, info):
                return
            files = await remote.text_files()
            try:
                model = await build_model(
                    self._tokenizers,
                    info.model,
                    files,
                    info.limits,
                    info.tokenizer_fingerprint,
                    self._parsers,
                )
            except ModelFilesError as error:
                raise WorkerRefusedError(str(error)) from error
            if self._suits(link, info):  # one with another tokenizer may have brought it meanwhile
                return
            self.models[info.model] = model
            log.info("model", model=model.name, tokenizer=model.fingerprint[:12])

    async def _follow(self, link: WorkerLink, remote: Remote) -> None:
        """Takes a worker's KV events into the router's index, once there is a choice to make."""
        index, info = self.router.index, link.info
        if index is None or info is None or not info.kv_events:
            return
        while len(readiness.fit(self._serving(info.model))) < 2:
            await self._turned.wait()
        held = index.worker(link.address, info.kv_blocks)
        await KvWatch(link.address, info.model, held).run(remote)

    def _suits(self, link: WorkerLink, info: WorkerInfo) -> bool:
        """Tells whether the model is known with the worker's tokenizer.

        Raises:
            WorkerRefusedError: it is known with another one, which other workers serve.
        """
        known = self.models.get(info.model)
        if known is None:
            return False
        if known.fingerprint == info.tokenizer_fingerprint:
            return True
        if any(other is not link for other in self._connected(info.model)):
            raise WorkerRefusedError(
                f"its tokenizer is {info.tokenizer_fingerprint[:12]}; that of model {info.model!r} "
                f"here is {known.fingerprint[:12]}"
            )
        return False

    def _connected(self, model: str) -> list[WorkerLink]:
        return [link for link in self._serving(model) if link.state in SERVING]

    def _has_ready(self, model: str) -> bool:
        return any(link.state is LinkState.READY for link in self.ready(model))

    def _update(self) -> None:
        described = {link.info.model for link in self.links if link.info}
        for link in self.links:
            if link.state not in SERVING:
                self.router.forget(link.address)
        self.pairings.keep([group_of(link) for link in self.links])
        for name in self.models.keys() - described:
            del self.models[name]
            log.info("model_gone", model=name)
        for model in self.models.values():
            fit = readiness.fit(self._serving(model.name))
            limits = [link.info.limits for link in fit if link.info]
            if model.ready_workers and not limits:
                model.left_s = time.monotonic()
            model.ready_workers = len(limits)
            if limits:
                model.limits = common_limits(limits)
        for link in self.links:
            if link.state is LinkState.SUSPECT and link.info and self._has_ready(link.info.model):
                link.fail_unaccepted()
        self.changed.set()
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def wait_for_change(self, most_s: float) -> None:
        """Waits until a worker has come, gone or changed its state, or for so long."""
        try:
            async with asyncio.timeout(most_s):
                await self._turned.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Ends every link."""
        tasks = [self._clock_task, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _choose(
    router: Router, model: Model, prompt: RoutedPrompt, links: Sequence[WorkerLink]
) -> tuple[WorkerLink, Choice]:
    # They may have come back with another tokenizer since the prompt was tokenised.
    if not links or not readiness.has_tokenizer(links[0], model.fingerprint):
        raise errors.no_worker(model.name)
    choice = router.choose(prompt, [candidate(link) for link in links])
    return links[choice.index], choice
