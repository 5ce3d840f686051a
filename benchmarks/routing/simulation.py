"""Simulates workers and frontends on a trace, without a process or a clock.

A worker runs so many sequences at once, each of which takes a time for the tokens of its prompt
that are not in the cache and one for each token of its output; others wait in order. Its KV cache
drops the blocks that were not used for longest. A frontend knows of a worker's load what the worker
tells five times a second, and what it has sent since.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.chain import Prefix
from tokenwire_frontend.core.routing.router import RoutedPrompt, Router

from benchmarks.routing.traces import Request

BLOCK_TOKENS = 16
RUNNING_LIMIT = 16
KV_BLOCKS = 8192
"""131,072 tokens: room for the chats of a worker, and not for all that it ever had."""

DOMAIN = ("", "", "")
PREFILL_TOKENS_S = 16_000.0
STEP_S = 0.025
REPORT_S = 0.2


class Cache:
    """Blocks, least recently used first."""

    def __init__(self, blocks: int | None) -> None:
        self._blocks = blocks
        self._held: OrderedDict[int, None] = OrderedDict()
        self.removed: list[int] = []

    def hits(self, hashes: Sequence[int]) -> int:
        """Returns how many leading blocks it has."""
        count = 0
        for each in hashes:
            if each not in self._held:
                break
            count += 1
        return count

    def use(self, hashes: Sequence[int]) -> None:
        """Stores blocks, or uses them again."""
        held = self._held
        for each in reversed(hashes):  # the last go first
            held[each] = None
            held.move_to_end(each)
        if self._blocks is not None:
            while len(held) > self._blocks:
                self.removed.append(held.popitem(last=False)[0])


@dataclass(slots=True)
class Job:
    """A request at a worker."""

    request: Request
    whole: Sequence[int]
    """Hashes of the blocks of prompt and output."""

    @property
    def prompt_blocks(self) -> int:
        """Full blocks of the prompt."""
        return len(self.request.prompt) // BLOCK_TOKENS

    @property
    def reusable(self) -> Sequence[int]:
        """Blocks of the prompt that may be found in a cache: its last token is computed."""
        return self.whole[: (len(self.request.prompt) - 1) // BLOCK_TOKENS]


@dataclass(slots=True)
class Worker:
    """A simulated worker."""

    name: str
    kv_blocks: int
    cache: Cache = field(init=False)
    running: int = 0
    waiting: deque[tuple[Job, int]] = field(default_factory=deque)
    """Jobs, each with its frontend."""
    requests: int = 0

    def __post_init__(self) -> None:
        self.cache = Cache(self.kv_blocks)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found. Rates are shares of all prompt tokens."""

    hit_rate: float
    expected_rate: float | None
    """As the router expected it; None: not known."""
    spread: float
    """Requests of the worker that got most, over the mean."""
    wait_s: float
    """Mean time until the prompt was computed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The best that any router could do on a trace."""

    unbounded: float
    """Hit rate of one cache without bound that all workers share."""
    shared: float
    """Hit rate of one cache as large as all workers' together."""


def prepare(trace: Sequence[Request]) -> list[Job]:
    """Returns a trace's requests with the hashes of their blocks."""
    return [
        Job(each, Prefix(each.prompt + each.output, BLOCK_TOKENS, DOMAIN).hashes) for each in trace
    ]


def bounds(jobs: Sequence[Job], workers: int, kv_blocks: int = KV_BLOCKS) -> Bounds:
    """Returns the best possible for a trace."""
    rates = []
    for cache in (Cache(None), Cache(kv_blocks * workers)):
        hits = 0
        for job in jobs:
            hits += cache.hits(job.reusable)
            cache.use(job.whole)
        rates.append(hits * BLOCK_TOKENS / _prompt_tokens(jobs))
    return Bounds(*rates)


def _prompt_tokens(jobs: Sequence[Job]) -> int:
    return sum(len(job.request.prompt) for job in jobs)


class Simulation:
    """A run: workers, frontends, and what is to happen when.

    Args:
        routers: one for each frontend.
        workers: how many.
        kv_blocks: size of a worker's cache.
        events: whether workers tell the frontends what their caches hold.
    """

    def __init__(
        self,
        routers: Sequence[Router],
        workers: int,
        kv_blocks: int = KV_BLOCKS,
        *,
        events: bool = False,
    ) -> None:
        self._routers = routers
        self._events = events
        self._workers = [Worker(f"worker-{place}:50051", kv_blocks) for place in range(workers)]
        self._views = [
            [
                Candidate(
                    each.name,
                    0,
                    0,
                    0,
                    RUNNING_LIMIT,
                    block_tokens=BLOCK_TOKENS,
                    kv_blocks=kv_blocks,
                )
                for each in self._workers
            ]
            for _ in routers
        ]
        self._queue: list[tuple[float, int, int, int, Job]] = []
        """Ends of jobs: time, a number that orders equals, worker, frontend and job."""
        self._ends = 0
        self._hits = self._expected = 0
        self._waited_s = 0.0

    def run(self, jobs: Sequence[Job]) -> Result:
        """Serves a trace."""
        report_s = 0.0
        for number, job in enumerate(jobs):
            while report_s <= job.request.at_s:
                self._end_until(report_s)
                self._report()
                report_s += REPORT_S
            self._end_until(job.request.at_s)
            self._route(job, number % len(self._routers))
        counts = [each.requests for each in self._workers]
        prompt_tokens = _prompt_tokens(jobs)
        return Result(
            self._hits * BLOCK_TOKENS / prompt_tokens,
            self._expected / prompt_tokens,
            max(counts) * len(counts) / sum(counts),
            self._waited_s / len(jobs),
        )

    def _route(self, job: Job, frontend: int) -> None:
        views = self._views[frontend]
        choice = self._routers[frontend].choose(RoutedPrompt(job.request.prompt), views)
        views[choice.index].unreported_requests += 1
        worker = self._workers[choice.index]
        worker.requests += 1
        self._expected += choice.reused_tokens or 0
        if worker.running < RUNNING_LIMIT:
            self._start(choice.index, job, frontend, job.request.at_s)
        else:
            worker.waiting.append((job, frontend))

    def _start(self, place: int, job: Job, frontend: int, now_s: float) -> None:
        worker = self._workers[place]
        worker.running += 1
        hits = worker.cache.hits(job.reusable)
        self._hits += hits
        prompt = job.whole[: job.prompt_blocks]
        worker.cache.use(prompt)
        self._tell(place, prompt, job)
        prefill_s = (len(job.request.prompt) - hits * BLOCK_TOKENS) / PREFILL_TOKENS_S
        self._waited_s += now_s - job.request.at_s + prefill_s
        self._ends += 1
        ends_s = now_s + prefill_s + len(job.request.output) * STEP_S
        heapq.heappush(self._queue, (ends_s, self._ends, place, frontend, job))

    def _end_until(self, now_s: float) -> None:
        while self._queue and self._queue[0][0] <= now_s:
            ended_s, _, place, frontend, job = heapq.heappop(self._queue)
            worker = self._workers[place]
            worker.running -= 1
            worker.cache.use(job.whole)
            self._tell(place, job.whole, job)
            self._views[frontend][place].unreported_requests -= 1
            if worker.waiting:
                self._start(place, *worker.waiting.popleft(), ended_s)

    def _report(self) -> None:
        for views in self._views:
            for view, worker in zip(views, self._workers, strict=True):
                view.running_sequences = worker.running
                view.waiting_requests = len(worker.waiting)
                view.unreported_requests = 0

    def _tell(self, place: int, hashes: Sequence[int], job: Job) -> None:
        """Tells what a cache holds now, as a worker's KV events do."""
        removed, worker = self._workers[place].cache.removed, self._workers[place]
        if self._events:
            ids = (job.request.prompt + job.request.output)[: len(hashes) * BLOCK_TOKENS]
            for router in self._routers:
                if router.index is not None:
                    blocks = router.index.worker(worker.name, worker.kv_blocks)
                    blocks.stored(0, hashes, ids, DOMAIN)
                    blocks.removed(removed)
        removed.clear()
