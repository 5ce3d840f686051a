"""Tokenising and rendering, in processes of their own; short texts are encoded at once.

The event loop must never wait for a text. `tokenizers` holds the GIL while it builds a tokenizer
and while it hands out ids, Jinja all the time, and neither can be stopped. A process can: each job
has a bound, one that exceeds it costs its process, and the frontend goes on.

A model is built aside, in a process that serves nobody yet, which takes the place of one that does
not have the model; then the others follow, one at a time.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import structlog
from tokenwire_service.tasks import Supervisor
from tokenwire_service.wording import counted

from tokenwire_frontend import errors
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.cache_counts import CacheCounts
from tokenwire_frontend.models.files import TOKENIZER_FILE, ModelFilesError, digest
from tokenwire_frontend.models.job_result import (
    BudgetSpentError,
    TemplateFailedError,
    TooManyTokensError,
    read_result,
)
from tokenwire_frontend.models.lanes import SHORT_BYTES, Job, Lanes
from tokenwire_frontend.models.sandbox import Budget
from tokenwire_frontend.models.short_texts import ShortTexts
from tokenwire_frontend.models.text_process import (
    JobTooLongError,
    ProcessLostError,
    TextProcess,
    TimeLimit,
    packed,
)

HELD_BYTES_LIMIT = 64 * 2**20
"""All texts that run or wait: 16 of the longest."""

LOAD_LIMIT = TimeLimit(cpu_s=60.0, wall_s=300.0)
"""To build one model: a vocabulary of 256k ids takes about a second of CPU time."""

TOKENIZE_LIMIT = TimeLimit(cpu_s=30.0, wall_s=300.0)
"""To tokenise one text: the longest takes about 2 s of CPU time."""

RENDER_LIMIT = TimeLimit(cpu_s=0.7, wall_s=2.0)
"""To render one chat, whatever it does."""

SHORT_RENDERING = Budget(steps=20_000, cpu_s=0.1, output_chars=256 * 1024)
"""What a chat may need among short texts: a hundred times what plain chats do."""

LONG_RENDERING = Budget(steps=5_000_000, cpu_s=0.5, output_chars=4 * 2**20)
"""What it may need among long ones, where it goes if that was not enough."""

REFUSED_LIMIT = 64
"""Sets of files that are remembered as refused."""

NO_LIMIT = 2**31 - 1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat as text and ids, with time.monotonic() at its stages."""

    text: str
    ids: array[int]
    began_s: float
    rendered_s: float
    ended_s: float


class _Slot:
    """One of the processes that serve."""

    def __init__(self) -> None:
        self.process: TextProcess | None = None
        self.lost = asyncio.Event()


class TokenizerPool:
    """The processes, and what waits for them.

    Args:
        supervisor: owns the tasks that start a process anew.
        processes: processes to run, at least 2; one is kept for short texts.
        waiting_limit: texts at once, running and waiting; the next is refused.
        fast_encoding: whether `fastokens` encodes where it has the ids of `tokenizers`.
        cache_bytes: most that each process remembers of a model's encoded texts; 0: nothing.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        processes: int,
        waiting_limit: int,
        *,
        fast_encoding: bool = True,
        cache_bytes: int = 0,
    ) -> None:
        self._waiting_limit = waiting_limit
        self._fast_encoding = fast_encoding
        self._cache_bytes = cache_bytes
        self._forgotten = CacheCounts()
        self._short_texts = ShortTexts(supervisor)
        self._lanes = Lanes()
        self._slots = [_Slot() for _ in range(processes)]
        self._processes: list[TextProcess] = []
        """All that run, those that only build or have yet to finish a job included."""
        self._sources: dict[str, dict[str, bytes]] = {}
        self._refused: dict[str, str] = {}
        self._building = asyncio.Lock()
        self._keys = count(1)
        self._closed = False
        self.held = 0
        """Texts now, running and waiting."""
        self._held_bytes = 0
        self._menders = [
            supervisor.keep("tokenizer_process", partial(self._mend, slot)) for slot in self._slots
        ]

    async def load(self, files: Mapping[str, bytes]) -> tuple[str, dict[str, Any]]:
        """Takes a model's files by name; returns its key and what the process says of it.

        The same files that were refused before are refused at once.

        Raises:
            ModelFilesError: they can't be used.
        """
        files = dict(files)
        whole = await asyncio.get_running_loop().run_in_executor(None, digest, files)
        if whole in self._refused:
            raise ModelFilesError(self._refused[whole])
        key = str(next(self._keys))
        async with self._building:
            try:
                fresh, told = await self._started(len(self._slots), {**self._sources, key: files})
            except ModelFilesError as error:
                if len(self._refused) >= REFUSED_LIMIT:
                    del self._refused[next(iter(self._refused))]
                self._refused[whole] = str(error)
                raise
            self._sources[key] = files
            if told["slow_because"]:
                log.info("fast_encoding_refused", reason=told["slow_because"])
            if told["encodes_at_once"]:
                source = files[TOKENIZER_FILE].decode()
                self._short_texts.take(key, source, alone=len(self._sources) == 1)
            for slot, process in zip(self._slots, fresh, strict=True):
                self._serve(slot, process)
        return key, told

    def forget(self, key: str) -> None:
        """Lets go of a model; processes that start from now on do without it."""
        self._sources.pop(key, None)
        self._short_texts.forget(key)

    @property
    def cache_counts(self) -> CacheCounts:
        """What the processes remember of encoded texts, and how often that has served."""
        live = [process.cache_counts for process in self._processes if process.alive]
        return sum(live, self._forgotten)

    async def encode(
        self,
        key: str,
        text: str,
        *,
        add_special_tokens: bool,
        with_offsets: bool = False,
        most_tokens: int = NO_LIMIT,
    ) -> list[array[int]]:
        """Returns a text's ids and, where asked for, each token's first code point and its end.

        Raises:
            ServiceError: TOKENIZER_BUSY or TOKENIZER_LOST.
            TooManyTokensError: more than `most_tokens`.
        """
        if not with_offsets:
            ids = self._short_texts.encode(key, text, add_special_tokens=add_special_tokens)
            if ids is not None:
                if len(ids) > most_tokens:
                    raise TooManyTokensError(len(ids), at_least=False)
                return [ids]
        job = packed("encode", key, text, add_special_tokens, with_offsets, most_tokens)
        return [array("I", column) for column in await self.result(job, TOKENIZE_LIMIT)]

    async def encode_each(self, key: str, texts: Sequence[str]) -> list[array[int]]:
        """Returns the ids of each of some short texts, without special tokens.

        Raises:
            ServiceError: as `encode`.
        """
        found = await self.result(packed("encode_each", key, [*texts]), TOKENIZE_LIMIT)
        return [array("I", ids) for ids in found]

    async def decode(
        self,
        key: str,
        token_ids: array[int],
        *,
        skip_special_tokens: bool,
        most_bytes: int = NO_LIMIT,
    ) -> str:
        """Returns the text of ids; for a few, Tokenizer.decode does the same at once.

        Raises:
            ServiceError: as `encode`.
            TextTooLargeError: the text's UTF-8 has more than `most_bytes`.
        """
        job = packed("decode", key, token_ids.tobytes(), skip_special_tokens, most_bytes)
        text: str = await self.result(job, TOKENIZE_LIMIT)
        return text

    async def render(
        self,
        key: str,
        chat: ChatPrompt,
        field: str,
        *,
        add_special_tokens: bool = False,
        most_tokens: int = NO_LIMIT,
    ) -> Rendered:
        """Renders and tokenises a chat that stands at `field`.

        Raises:
            ServiceError: as `encode`; InvalidRequestError for JSON text that can't be read, and
                CHAT_TEMPLATE_FAILED.
            TooManyTokensError: more than `most_tokens`.
        """
        try:
            return await self._rendered(key, chat, field, add_special_tokens, most_tokens)
        except TemplateFailedError as error:
            raise errors.template_failed(field, str(error)) from error

    async def _rendered(
        self, key: str, chat: ChatPrompt, field: str, special: bool, most_tokens: int
    ) -> Rendered:
        fields = (
            chat.messages, chat.tools, chat.documents, chat.add_generation_prompt,
            chat.continue_final_message, chat.template_arguments, chat.escape_control_tokens,
        )  # fmt: skip

        def job(budget: Budget, *, tokenises: bool) -> bytes:
            limits = (budget.steps, budget.cpu_s, budget.output_chars)
            return packed("chat", key, fields, field, special, limits, most_tokens, tokenises)

        first = job(SHORT_RENDERING, tokenises=True)
        if len(first) <= SHORT_BYTES:
            try:
                text, _, ids, times = await self.result(first, RENDER_LIMIT)
                return Rendered(text, array("I", ids), *times)
            except BudgetSpentError:
                pass
        try:
            text, plane, _, times = await self.result(
                job(LONG_RENDERING, tokenises=False), RENDER_LIMIT, short=False
            )
        except BudgetSpentError as error:
            raise TemplateFailedError("it takes too long") from error
        if plane:
            marked = packed("literal", key, text, plane, special, most_tokens)
            text, ids = await self.result(marked, TOKENIZE_LIMIT)
        else:
            [ids] = await self.encode(
                key, text, add_special_tokens=special, most_tokens=most_tokens
            )
        began_s, rendered_s, _ = times
        return Rendered(text, array("I", ids), began_s, rendered_s, time.monotonic())

    async def close(self) -> None:
        """Ends the processes."""
        self._closed = True
        for task in self._menders:
            task.cancel()
        await asyncio.wait(self._menders)
        for process in self._processes:
            process.kill()
            await process.ended()

    async def result(self, payload: bytes, limit: TimeLimit, *, short: bool | None = None) -> Any:
        """Returns the result of a job, once a process has done it.

        Args:
            payload: as `packed` makes it.
            limit: time that it may take.
            short: whether it goes before long ones; None: where it is small.

        Raises:
            ServiceError: as `encode`.
        """
        if self.held >= self._waiting_limit:
            raise errors.tokenizer_busy(counted(self._waiting_limit, "text"))
        if self._held_bytes + len(payload) > HELD_BYTES_LIMIT:
            raise errors.tokenizer_busy(f"texts of {HELD_BYTES_LIMIT // 2**20} MiB")
        if short is None:
            short = len(payload) <= SHORT_BYTES
        job = Job(payload, limit, short, asyncio.get_running_loop().create_future())
        self.held += 1
        self._held_bytes += len(payload)
        try:
            self._lanes.put(job)
            self._dispatch()
            return read_result(*await (await job.taken))
        except JobTooLongError as error:
            if limit is RENDER_LIMIT:
                raise TemplateFailedError("it takes too long") from error
            raise errors.tokenizer_lost(f"it took longer than {limit.cpu_s:g} s") from error
        except ProcessLostError as error:
            raise errors.tokenizer_lost("the tokenizer's process ended") from error
        finally:
            self.held -= 1
            self._held_bytes -= len(payload)
            self._lanes.drop(job)
            if job.taken.done() and not job.taken.cancelled():
                job.taken.result().cancel()  # the caller has left

    def _dispatch(self) -> None:
        """Gives every idle process a job."""
        last = len(self._slots) - 1
        for place, slot in enumerate(self._slots):
            process = slot.process
            while process is not None and process.idle:
                job = self._lanes.take(long=place > 0, long_first=place == last)
                if job is None:
                    break
                if not job.taken.done():
                    job.taken.set_result(process.run(job.payload, job.limit))

    async def _started(
        self, processes: int, sources: Mapping[str, dict[str, bytes]]
    ) -> tuple[list[TextProcess], Any]:
        """Starts processes that have these models; returns also what is said of the last one.

        Raises:
            ModelFilesError: one of the models can't be used.
        """
        fresh = [TextProcess(self._dispatch, self._on_lost) for _ in range(processes)]
        self._processes = [each for each in self._processes if each.pid] + fresh
        answers: list[asyncio.Future[tuple[str, Any]]] = []
        told: Any = None
        try:
            for process in fresh:
                await process.start()
            for key, files in sources.items():
                job = packed("load", key, files, self._fast_encoding, self._cache_bytes)
                answers = [process.run(job, LOAD_LIMIT) for process in fresh]
                for answer in answers:
                    told = read_result(*await answer)
        except BaseException as error:
            for answer in answers:
                answer.cancel()
            for process in fresh:
                process.kill()
            if isinstance(error, JobTooLongError):
                raise ModelFilesError(
                    f"it takes longer than {LOAD_LIMIT.cpu_s:g} s to build"
                ) from error
            if isinstance(error, ProcessLostError):
                raise ModelFilesError("building it ends the process that does it") from error
            raise
        return fresh, told

    async def _mend(self, slot: _Slot) -> None:
        """Starts the slot's process anew whenever it has ended, also while a model is being built.

        What is built comes with a process for each slot, and the one started here lacks the model.
        """
        while True:
            await slot.lost.wait()
            sources = dict(self._sources)
            [process], _ = await self._started(1, sources)
            if slot.lost.is_set() and self._sources.keys() <= sources.keys():
                self._serve(slot, process)
            else:
                process.kill()

    def _serve(self, slot: _Slot, process: TextProcess) -> None:
        old, slot.process = slot.process, process
        slot.lost.clear()
        if old is not None:
            old.retire()
        if not process.alive:
            slot.lost.set()
        self._dispatch()

    def _on_lost(self, process: TextProcess) -> None:
        self._forgotten += process.cache_counts.without_held()
        for slot in self._slots:
            if slot.process is process and not self._closed:
                slot.lost.set()
