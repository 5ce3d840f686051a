"""What one client has not taken yet of a generation."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tokenwire_service.errors import ServiceError

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Content, Delivery, News
from tokenwire_frontend.core.fast_path import TRIM_BYTES, Outlet
from tokenwire_frontend.generation.credit import CREDIT_LIMIT, Credit
from tokenwire_frontend.generation.state import State

if TYPE_CHECKING:
    from tokenwire_frontend.core.fast_path import Cursor, Plain
    from tokenwire_frontend.core.log import Delta, SequenceLog
    from tokenwire_frontend.core.prompt_log import PromptPart
    from tokenwire_frontend.generation.generation import Generation


MESSAGE_BYTES_LIMIT = 256 * 1024
"""Of one streamed message: well under the 1 MiB that the contract promises, and made in less than
20 ms where it is all log probabilities."""

LEAST_BYTES = 8192
"""Least that a sequence's delta is given: a stop string and one token's alternatives fit."""

UNREAD_BYTES_LIMIT = 64 * 2**20
"""Most that waits for a client which does not read: six times the ids and text of a million tokens.
In memory it takes up to 1.6 times as much."""


class _Pause:
    """Holds news in the place of a timer, until there is credit."""

    def cancel(self) -> None:
        """As a timer's."""


_PAUSE = _Pause()


class Reader(Outlet):
    """A client's cursors into a generation's sequences, and when the client is told.

    Nothing is kept for a client but its cursors: a client that reads slowly finds its deltas
    merged, and holds back neither the worker's stream nor any other client. It is made before its
    generation, so that the client can cancel what has just begun.

    Args:
        on_news: called when there may be something to `take`; not again until it was taken.
        delivery: when that is, and what of it.
        credit: how much of it; None: all.
    """

    __slots__ = (
        "_cursors", "_generation", "_held", "_passed", "_prompt_token", "_taken_s", "attached",
        "cancelled", "credit", "delivery", "ended", "offsets",
    )  # fmt: skip

    retains = False
    """Whether what was taken has to stay."""

    def __init__(
        self,
        on_news: Callable[[], None],
        delivery: Delivery | None = None,
        credit: Credit | None = None,
    ) -> None:
        super().__init__(on_news)
        self.delivery = delivery or Delivery()
        self.cancelled = False
        """The client wants no more of it."""
        self.offsets: Sequence[int] = ()
        """Ids of each sequence that the client has already; empty: none of any. A client that has
        some is not given the prompt's log probabilities."""
        self.ended: Collection[int] = ()
        """Sequences of which the client has the end, too."""
        self.attached = False
        """The generation was there before the client's request, under its key."""
        self._generation: Generation | None = None
        self.credit = credit
        self._cursors: list[Cursor] = []
        self._prompt_token = 0
        # Tokens of the prompt whose log probabilities were taken.
        self._held: asyncio.TimerHandle | _Pause | None = None
        self._taken_s = 0.0
        self._passed = 0
        # Number of the last window of which the timer has fired.
        self._untrimmed_bytes = 0

    def attach(self, generation: Generation) -> None:
        """Reads this generation from its beginning, once `begin` is called."""
        self._generation = generation
        self._deltas = generation.record.deltas

    def cancel(self) -> None:
        """Ends the generation for the client's own reason; what exists and the end still come.

        They need no credit.
        """
        self.cancelled = True
        self.grant(CREDIT_LIMIT)
        if self._generation is not None:
            self._generation.cancel()

    def grant(self, amount: int) -> None:
        """Adds credit, where the client has set any; what waits for it is told of at once."""
        if self.credit is not None:
            self.credit.grant(amount)
            if self._held is _PAUSE and amount:
                self.wake(urgent=True)

    def begin(self) -> None:
        """Lets `on_news` be called, at once where there is news already."""
        self.listens = True
        generation, delivery = self._generation, self.delivery
        self.at_once = generation is not None and not (delivery.max_delay_s or delivery.only_end)
        if generation is not None and (
            generation.done
            or any(each.ids for each in generation.logs)
            or (generation.prompt_log is not None and generation.prompt_log.bytes_held)
        ):
            self.wake(urgent=True)

    def close(self) -> None:
        """Lets `on_news` never be called again."""
        self.listens = False
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def wake(self, *, urgent: bool) -> None:
        """Tells the client, now or when its window ends; once until the news is taken.

        Args:
            urgent: told at once: an end, or a sequence's first tokens.
        """
        if self._held is None:
            if not self.listens:
                return
            if self.at_once:  # the hot path
                self.listens = False
                self.on_news()
                return
        elif urgent:
            self._held.cancel()
            self._held = None
        else:
            return
        generation = self._generation
        if generation is None or (self.delivery.only_end and not generation.done):
            self.listens = True
            return
        self.listens = False
        delay_s = self.delivery.max_delay_s
        if delay_s and not urgent:
            # To the clock's next multiple of the window, so that clients of one window are told
            # together: what is written at once costs gRPC's threads and a session far less.
            window = max(int(self._taken_s // delay_s), self._passed) + 1
            wait_s = window * delay_s - time.monotonic()
            if wait_s > 0:
                loop = asyncio.get_running_loop()
                self._held = loop.call_later(wait_s, self._release, window)
                return
        self.on_news()

    def excess(self) -> ServiceError | None:
        """Returns why the generation has to end, where more of it waits than may."""
        generation = self._generation
        if generation is None:
            return None
        prompt, logs = generation.prompt_log, generation.logs
        cursors = self._cursors or [each.start() for each in logs]
        unread = sum(log.unread_bytes(cursor) for log, cursor in zip(logs, cursors, strict=True))
        if prompt is not None:
            unread += prompt.unread_bytes(self._prompt_token)
        return errors.not_reading(UNREAD_BYTES_LIMIT) if unread > UNREAD_BYTES_LIMIT else None

    def take(self, max_bytes: int) -> News:
        """Returns what is new, and lets `on_news` be called again.

        Where credit is used up, that is at an end or when there is more.

        Args:
            max_bytes: most bytes of it on the wire. What does not fit is told of at once
                again; the completion or failure comes with the last. A failure comes without
                what waits for credit.
        """
        generation = self._generation
        assert generation is not None  # noqa: S101 - nothing tells before; for the type checker
        if self.delivery.max_delay_s:
            self._taken_s = time.monotonic()
        if not self._cursors:
            self._start(generation)
        deltas, left, everything = [], max_bytes, True
        prompt = self._take_prompt(generation, left)
        if prompt is not None:
            # Deltas come after all of it.
            left = 0 if prompt.partial else left - prompt.wire_bytes
        for log, cursor in self._places(generation):
            if left < LEAST_BYTES:
                everything = False
                break
            delta = self._next(log, cursor, left)
            if delta is not None:
                everything = everything and not delta.partial
                if self._leave_content(delta):
                    deltas.append(delta)
                    left -= delta.wire_bytes
        self._deltas.value += len(deltas)
        self._untrimmed_bytes += max_bytes - left
        if self._untrimmed_bytes >= TRIM_BYTES:
            self._trim(generation)
        self.listens = self.credit is None or self.credit.left > 0
        if not self.listens:
            self._held = _PAUSE
        if not everything:
            self.wake(urgent=True)
        elif generation.state is State.DONE and (
            generation.failure is not None or not self._withholds()
        ):
            return News(deltas, max_bytes - left, prompt, generation.completion, generation.failure)
        return News(deltas, max_bytes - left, prompt)

    def taken(self) -> None:
        """Notes that something plain was, where there is something to note."""
        if self.delivery.max_delay_s:
            self._taken_s = time.monotonic()
        if self._untrimmed_bytes >= TRIM_BYTES and self._generation is not None:
            self._trim(self._generation)

    def _begin_at(self, generation: Generation) -> list[Cursor]:
        """Returns the cursors to begin with."""
        if not self.offsets:
            return [each.start() for each in generation.logs]
        return [
            log.after(token, ended=log.index in self.ended)
            for log, token in zip(generation.logs, self.offsets, strict=True)
        ]

    def _start(self, generation: Generation) -> None:
        """Makes the cursors, and settles how what is plain is taken."""
        self._cursors = self._begin_at(generation)
        # Log probabilities of the prompt come before any delta.
        if len(self._cursors) == 1 and generation.prompt_log is None:
            [self._columns] = [log] = generation.logs
            [self._cursor] = self._cursors
            delivery, credit = self.delivery, self.credit
            whole = delivery.content is Content.TEXT_AND_IDS and delivery.max_tokens == sys.maxsize
            if not whole or credit is not None:
                self._part = partial(_part_of_plain, log, delivery, credit)

    def _take_prompt(self, generation: Generation, max_bytes: int) -> PromptPart | None:
        """Returns what is new of the prompt's log probabilities."""
        prompt = generation.prompt_log
        if prompt is None or any(self.offsets):
            return None
        part = prompt.slice(self._prompt_token, max_bytes)
        if part is not None:
            self._prompt_token += len(part.logprobs)
            if not generation.retained:
                prompt.trim(self._prompt_token)
        return part

    def _places(self, generation: Generation) -> Iterable[tuple[SequenceLog, Cursor]]:
        """Returns the sequences with their cursors; where credit is short, the last comes first."""
        places = zip(generation.logs, self._cursors, strict=True)
        if self.credit is None:
            return places
        return sorted(places, key=lambda place: place[1].token)

    def _next(self, log: SequenceLog, cursor: Cursor, max_bytes: int) -> Delta | None:
        """Returns a sequence's next delta, as far as there is credit."""
        tokens = _most_tokens(self.delivery, self.credit)
        if not tokens and (log.end is None or cursor.token < log.token_count):
            return None
        return log.slice(cursor, max_bytes, tokens)

    def _leave_content(self, delta: Delta) -> bool:
        """Leaves in a delta what the client asked for; returns whether it is to be sent."""
        tokens, content = len(delta.token_ids), self.delivery.content
        if content is Content.IDS:
            delta.text = delta.reasoning = ""
            delta.text_offset = delta.reasoning_offset = 0
            delta.calls = ()
            something = tokens > 0
        elif content is Content.TEXT:
            delta.token_ids = ()
            something = bool(delta.text or delta.reasoning or delta.calls or delta.logprobs)
        else:
            something = True
        if not something and delta.end is None:
            return False
        if self.credit is not None and (tokens or delta.end is None):
            self.credit.use(tokens)
        return True

    def _withholds(self) -> bool:
        """Whether an ended generation has something that waits for credit."""
        return self.credit is not None and not all(each.ended for each in self._cursors)

    def _trim(self, generation: Generation) -> None:
        """Lets the logs drop what was taken, now and then."""
        self._untrimmed_bytes = 0
        if not generation.retained:
            for log, cursor in zip(generation.logs, self._cursors, strict=True):
                log.trim(cursor)

    def _release(self, window: int) -> None:
        # A timer may fire up to a tick of its clock before its time: the window is over all the
        # same, or the next one would end at once. Its number is kept and not its time, of which
        # the same division may give the number before.
        self._passed = window
        self._held = None
        self.on_news()


def _most_tokens(delivery: Delivery, credit: Credit | None) -> int:
    """Returns the most tokens of the next delta."""
    return delivery.max_tokens if credit is None else min(delivery.max_tokens, credit.tokens)


def _part_of_plain(
    log: SequenceLog, delivery: Delivery, credit: Credit | None, cursor: Cursor, max_bytes: int
) -> Plain | None:
    """Takes what is plain where not all of it may be sent; None also where that takes a cut."""
    tokens = log.token_count - cursor.token
    if tokens > _most_tokens(delivery, credit):
        return None
    if delivery.content is Content.TEXT and log.cut[-1] == cursor.text:
        return None
    plain = log.plain(cursor, max_bytes)
    if plain is None:
        return None
    if credit is not None:
        credit.use(tokens)
    token_offset, text_offset, ids, text = plain
    if delivery.content is Content.IDS:
        return token_offset, 0, ids, b""
    return token_offset, text_offset, () if delivery.content is Content.TEXT else ids, text
