"""Conversations that this frontend keeps, so that a request brings the new turn alone."""

from __future__ import annotations

import asyncio
import marshal
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from tokenwire_service.errors import invalid
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.caller import scoped
from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.log import Finish, SequenceLog
from tokenwire_frontend.core.request import ChatPrompt, ConversationTurn
from tokenwire_frontend.core.seen import Seen
from tokenwire_frontend.core.validation import MESSAGES_LIMIT
from tokenwire_frontend.metrics import ConversationMetrics
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.turn_prompts import TurnPrompt

CONVERSATIONS_LIMIT = 65_536
"""Conversations at once: what Python has around each takes about 1 KiB, which bytes don't count."""

_KEPT = frozenset({Finish.STOP, Finish.TOOL_CALLS, Finish.LENGTH})
"""Ends of a turn after which the conversation goes on from its answer."""


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation between two turns."""

    model: str
    fingerprint: str
    """Of the model's tokenizer."""
    messages: bytes
    """As `marshal` writes a list of them: it takes a third of the memory."""
    count: int
    """Messages."""
    before: int
    """Messages before the last turn, which may be repeated."""
    seen: Seen
    literal: bool
    """The chat was rendered with `escape_control_tokens`: the same text may have other ids."""
    worker: str
    """Address of the worker that has the KV blocks."""
    used_s: float
    """time.monotonic() of the last turn's beginning or end, whichever was later."""

    @property
    def bytes_held(self) -> int:
        """Bytes in memory."""
        return len(self.messages) + self.seen.bytes_held


_NEW = Held("", "", marshal.dumps([]), 0, 0, Seen(), literal=False, worker="", used_s=0.0)


class Conversations:
    """All that this frontend keeps, the least recently used first.

    Args:
        limit_bytes: messages, texts and ids of all of them; 0: none is kept.
        ttl_s: how long one is kept after it was last used.
        metrics: what is counted.
    """

    def __init__(self, limit_bytes: int, ttl_s: float, metrics: ConversationMetrics) -> None:
        self.metrics = metrics
        self.bytes_held = 0
        self._limit_bytes = limit_bytes
        self._ttl_s = ttl_s
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._in_turn: set[str] = set()
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, asked: ConversationTurn, tenant: str, chat: ChatPrompt, model: Model) -> Turn:
        """Begins the next turn of a tenant's conversation, to be closed in any case.

        Raises:
            ServiceError: CONVERSATION_BUSY, CONVERSATION_GONE or CONVERSATION_MISMATCH.
            InvalidRequestError: no conversations are kept here, or there are too many messages.
        """
        if not self._limit_bytes:
            raise invalid("conversation", "is not supported: this frontend keeps none")
        name = scoped(tenant, asked.id)
        if name in self._in_turn:
            self.metrics.turns.count(semconv.BUSY).value += 1
            raise errors.conversation_busy(asked.id)
        held = self._find(name, asked, model)
        messages = marshal.loads(held.messages)[: asked.messages]  # noqa: S302 - written here
        if len(messages) + len(chat.messages) > MESSAGES_LIMIT:
            raise invalid(
                "prompt.chat.messages",
                f"has {len(chat.messages)}, and the conversation {len(messages)}; "
                f"at most {MESSAGES_LIMIT} in all",
            )
        self._in_turn.add(name)
        whole = replace(chat, messages=[*messages, *chat.messages], held=len(messages))
        return Turn(self, name, model, held, whole)

    def _find(self, name: str, asked: ConversationTurn, model: Model) -> Held:
        count = self.metrics.turns.count
        if not asked.messages:
            count(semconv.NEW).value += 1
            return _NEW
        held = self._held.get(name)
        if held is None or (held.model, held.fingerprint) != (model.name, model.fingerprint):
            count(semconv.MISS).value += 1
            raise errors.conversation_gone(asked.id)
        if asked.messages not in (held.count, held.before):
            count(semconv.MISMATCH).value += 1
            raise errors.conversation_mismatch(asked.id, held.count, asked.messages)
        count(semconv.HIT).value += 1
        self._held[name] = replace(held, used_s=time.monotonic())
        self._held.move_to_end(name)
        return held

    def keep(self, name: str, held: Held) -> None:
        """Keeps a conversation in the place of one of this name, if it fits at all."""
        self._drop(name)
        if held.bytes_held > self._limit_bytes:  # it would drop all others, and then itself
            self.metrics.evictions.count(semconv.ROOM).value += 1
            return
        self._held[name] = held
        self.bytes_held += held.bytes_held
        while self.bytes_held > self._limit_bytes or len(self._held) > CONVERSATIONS_LIMIT:
            self._evict(semconv.ROOM)
        self._await_expiry()

    def leave(self, name: str) -> None:
        """Notes that the conversation's turn is over."""
        self._in_turn.discard(name)

    def close(self) -> None:
        """Stops the timer."""
        if self._expiry is not None:
            self._expiry.cancel()

    def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self.bytes_held -= held.bytes_held

    def _evict(self, cause: str) -> None:
        self._drop(next(iter(self._held)))
        self.metrics.evictions.count(cause).value += 1

    def _await_expiry(self) -> None:
        if self._expiry is None and self._held:
            oldest = next(iter(self._held.values()))
            left_s = max(oldest.used_s + self._ttl_s - time.monotonic(), 0.0)
            self._expiry = asyncio.get_running_loop().call_later(left_s, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        late_s = time.monotonic() - self._ttl_s
        while self._held and next(iter(self._held.values())).used_s <= late_s:
            self._evict(semconv.IDLE)
        self._await_expiry()


class Turn:
    """One turn of a conversation, which is as it was before until the turn's answer is kept.

    Args:
        conversations: where it is kept.
        name: the conversation's, as no other tenant has it.
        model: the turn's.
        held: the conversation before the turn.
        chat: all its messages, those of the turn at the end.
    """

    def __init__(
        self, conversations: Conversations, name: str, model: Model, held: Held, chat: ChatPrompt
    ) -> None:
        self.chat = chat
        self.worker = held.worker
        """Address of the worker that has the KV blocks of the turn before; empty: none."""
        self.seen = held.seen if held.literal == chat.escape_control_tokens else Seen()
        """What the model has seen: of the turn before, and of this one once it is `rendered`."""
        self.kept_tokens = 0
        """Ids of the prompt that were kept from the turn before."""
        self._conversations = conversations
        self._name = name
        self._model = model

    @property
    def encoded_tokens(self) -> int:
        """Ids of the prompt that were not kept, once it is `rendered`."""
        return len(self.seen.ids) - self.kept_tokens

    def rendered(self, prompt: TurnPrompt) -> None:
        """Notes the turn's prompt."""
        self.seen, self.kept_tokens = prompt.seen, prompt.kept
        count = self._conversations.metrics.tokens.count
        count(semconv.KEPT).value += self.kept_tokens
        count(semconv.ENCODED).value += self.encoded_tokens

    def end(self, answer: SequenceLog | None, worker: str) -> None:
        """Ends the turn, and keeps its answer where the conversation can go on from it.

        Args:
            answer: the answer, whole; None: the turn has failed.
            worker: address of the worker that has generated it.
        """
        try:
            if answer is not None and answer.end is not None and answer.end.finish in _KEPT:
                self._keep(answer, worker)
        finally:
            self._conversations.leave(self._name)

    def _keep(self, answer: SequenceLog, worker: str) -> None:
        message = _message(answer)
        if message is None:
            return
        messages = [*self.chat.messages, message]
        held = Held(
            self._model.name,
            self._model.fingerprint,
            marshal.dumps(messages),
            len(messages),
            self.chat.held,
            self.seen.with_output(answer.ids, self._model.tokenizer.token_bytes),
            self.chat.escape_control_tokens,
            worker,
            time.monotonic(),
        )
        self._conversations.keep(self._name, held)


def _message(answer: SequenceLog) -> dict[str, Any] | None:
    """Returns an answer as the assistant's message, as a caller would send it back.

    None where it was cut off within a tool call, whose arguments no template can read.
    """
    whole = answer.output()
    assert whole is not None  # noqa: S101 - it has an end; for the type checker
    # A turn of calls alone has no content, which templates tell from an empty one.
    content = None if whole.calls and not whole.text else whole.text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if whole.reasoning:
        message["reasoning_content"] = whole.reasoning
    if whole.calls:
        try:
            for call in whole.calls:
                json_object(call.arguments)
        except JsonTextError:
            return None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in whole.calls
        ]
    return message
