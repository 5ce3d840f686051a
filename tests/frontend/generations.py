"""A generator whose workers and tokenizer do what a test says, in the turn that it says."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tokenwire_frontend import errors
from tokenwire_frontend.core.activity import Activity
from tokenwire_frontend.core.breaker import Breaker
from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.model import ModelLimits, SamplingDefaults
from tokenwire_frontend.core.request import GenerationRequest, Stopping, TextPrompt
from tokenwire_frontend.core.routing.router import Cause, Choice, Policy
from tokenwire_frontend.core.tenants import Tenants
from tokenwire_frontend.core.token_bytes import NO_BYTES
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.conversation import Conversations
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.queues import QueueLimits, Queues
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.metrics import ConversationMetrics, FrontendMetrics
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.output_formats import OutputFormats, ParserNames
from tokenwire_frontend.workers.receiver import Receiver, WorkerReport
from tokenwire_service.errors import Code, ServiceError

LIMITS = ModelLimits(2048, 2000, 4096, 8, 0, (2,), frozenset(), frozenset())
FAR_S = 86_000.0
"""A time budget whose timer would be seen if it were left behind."""

REPORT = WorkerReport(None, None, None, None)


class Letters:
    """A tokenizer whose every id is the letter x."""

    special_tokens: ClassVar[dict[int, str]] = {}
    token_bytes = NO_BYTES
    settled = False

    def fewest_tokens(self, _text: str) -> int:
        return 1

    def detokenizer(self, **_: Any) -> Letters:
        return self

    def push(self, token_ids: Sequence[int]) -> str:
        return "x" * len(token_ids)

    def held(self) -> str:
        return ""


TEXT_ALONE = OutputFormats(ParserNames(), (None, None), {}, {})
LETTERS = Model("demo", "", "", Letters(), False, SamplingDefaults(), TEXT_ALONE, LIMITS)  # type: ignore[arg-type]


class Link:
    """A worker's link: what is submitted stays until the worker ends it, as with the real one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.info: Any = None
        self.breaker = Breaker()
        self.live: dict[int, Receiver] = {}
        self.every: list[Receiver] = []
        self.cancels: list[tuple[int, int | None]] = []

    def submit(self, _request: Any, receiver: Receiver) -> int:
        self.every.append(receiver)
        handle = len(self.every)
        self.live[handle] = receiver
        return handle

    def cancel(self, handle: int, sequence: int | None = None) -> None:
        if handle in self.live:
            self.cancels.append((handle, sequence))

    # What the worker says, of the only generation that it has.

    def accept(self) -> None:
        for receiver in list(self.live.values()):
            receiver.on_accepted()

    def tokens(self, *ids: int, sequence: int = 0) -> None:
        for receiver in list(self.live.values()):
            receiver.on_tokens(sequence, ids or (300, 301), (), time.monotonic())

    def refuse(self, error: ServiceError | None = None) -> None:
        full = ServiceError(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")
        self._let_go(lambda receiver: receiver.on_failed(error or full))

    def complete(self, finish: Finish = Finish.LENGTH) -> None:
        for receiver in list(self.live.values()):
            receiver.on_ending(0, finish, None)
        self._let_go(lambda receiver: receiver.on_completed(REPORT))

    def die(self) -> None:
        lost = errors.worker_lost(self.address, "it died")
        self._let_go(lambda receiver: receiver.on_failed(lost))

    def _let_go(self, tell: Callable[[Receiver], None]) -> None:
        live, self.live = self.live, {}
        for receiver in live.values():
            tell(receiver)


class Pool:
    """Two workers, tried in their order."""

    def __init__(self) -> None:
        self.links = [Link("127.0.0.1:1"), Link("127.0.0.1:2")]

    def known_name(self, _name: str) -> str:
        return "demo"

    def model(self, _name: str, _field: str) -> Model:
        return LETTERS

    def too_late(self, _name: str, _budget_s: float, _lora_adapter: str) -> None:
        """No request would wait for longer than it has."""

    def is_ready(self, _name: str) -> bool:
        return True

    def has_room(self, _name: str, _more: int, _ahead: float | None) -> bool:
        return True

    def prefers_prefill(self, _model: Model, _prompt: Any) -> bool:
        return False

    def ready(self, _name: str, _lora_adapter: str = "") -> list[Link]:
        return self.links

    def route(self, _model: Model, _prompt: Any, tried: Any = ()) -> tuple[Link, Choice]:
        [link, *_] = [each for each in self.links if each not in tried]
        return link, Choice(0, Policy.ROUND_ROBIN, Cause.TURN, "the next")


class Tokenizers:
    """Tokenises once `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.held = 0

    async def encode(self, *_: Any, **__: Any) -> list[array[int]]:
        self.held += 1
        try:
            await self.gate.wait()
            return [array("I", [300, 301])]
        finally:
            self.held -= 1


class Case:
    """One generator, and one client that opens a generation and reads it to its end."""

    def __init__(self, *, limit: int = 4, move_wait_s: float = 0.0, **request: Any) -> None:
        self.pool = Pool()
        self.tokenizers = Tokenizers()
        self.admission = Admission(limit, Queues(self.pool, QueueLimits()), Tenants())
        self.activity = Activity(16)
        recorder = Recorder(FrontendMetrics(), self.activity, content=False)
        conversations = Conversations(0, 1.0, ConversationMetrics())
        self.generator = Generator(
            self.pool, self.tokenizers, recorder, self.admission, conversations, move_wait_s
        )  # type: ignore[arg-type]
        self.request = replace(
            GenerationRequest(TextPrompt("Hello"), stopping=Stopping(max_tokens=100)),
            **{"time_budget_s": FAR_S, **request},
        )
        self.news = asyncio.Event()
        self.reader = Reader(self.news.set)
        self.ids: list[int] = []
        self.ends: list[Finish] = []
        self.outcome: Completion | ServiceError | None = None
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        incoming = Incoming(reads=lambda: self.request, path="generation", deadline_s=FAR_S * 2)
        try:
            async with self.generator.open(incoming, self.reader):
                self.reader.begin()
                while self.outcome is None:
                    await self.news.wait()
                    self.news.clear()
                    news = self.reader.take(64 * 1024)
                    for delta in news.deltas:
                        self.ids.extend(delta.token_ids)
                        if delta.end is not None:
                            self.ends.append(delta.end.finish)
                    self.outcome = news.failure or news.completion
        except ServiceError as error:
            self.outcome = error

    @property
    def generation(self) -> Any:
        """The live generation, if there is one."""
        return next(iter(self.generator._live), None)

    async def turn(self) -> None:
        """Lets everything happen that can."""
        for _ in range(12):
            await asyncio.sleep(0)
