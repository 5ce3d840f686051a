"""tokenwire.frontend.v1.TokenizationService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenwire.frontend.v1 import tokenization_pb2, tokenization_pb2_grpc
from tokenwire_service.errors import InvalidRequestError, invalid

from tokenwire_frontend import errors
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.validation import chat_violations
from tokenwire_frontend.edge import from_proto
from tokenwire_frontend.generation.prompt import render
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers.pool import WorkerPool

Context = grpc.aio.ServicerContext[Any, Any]

OPEN_SEQUENCES_LIMIT = 1024
"""Sequences that one StreamDetokenize call may hold open; each keeps a few ids."""


class TokenizationServicer(tokenization_pb2_grpc.TokenizationServiceServicer):
    """Runs the models' tokenizers and chat templates."""

    def __init__(self, pool: WorkerPool, tokenizers: TokenizerPool) -> None:
        self._pool = pool
        self._tokenizers = tokenizers

    async def Tokenize(
        self,
        request: tokenization_pb2.TokenizeRequest,
        context: Context,
    ) -> tokenization_pb2.TokenizeResponse:
        """Turns a text into token ids."""
        tokenizer = self._pool.model(request.model, "model").tokenizer
        special = not request.HasField("add_special_tokens") or request.add_special_tokens
        if not request.with_offsets:
            ids = await self._encode(tokenizer, request.text, special)
            return tokenization_pb2.TokenizeResponse(token_ids=ids)
        encoding = await self._tokenizers.run(
            lambda: tokenizer.encode(request.text, add_special_tokens=special)
        )
        return tokenization_pb2.TokenizeResponse(
            token_ids=encoding.ids,
            offset_starts=[start for start, _ in encoding.offsets],
            offset_ends=[end for _, end in encoding.offsets],
        )

    async def Detokenize(
        self,
        request: tokenization_pb2.DetokenizeRequest,
        context: Context,
    ) -> tokenization_pb2.DetokenizeResponse:
        """Turns token ids into text."""
        model = self._pool.model(request.model, "model")
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        ids = request.token_ids[:]
        _check_ids(model, ids)
        text = await self._tokenizers.run(
            lambda: model.tokenizer.decode(ids, skip_special_tokens=skip)
        )
        return tokenization_pb2.DetokenizeResponse(text=text)

    async def RenderChat(
        self,
        request: tokenization_pb2.RenderChatRequest,
        context: Context,
    ) -> tokenization_pb2.RenderChatResponse:
        """Renders a chat with the model's template."""
        model = self._pool.model(request.model, "model")
        tokenizer = model.tokenizer
        if tokenizer.chat_template is None:
            raise errors.no_chat_template(model.name)
        chat = from_proto.chat_prompt(request.chat, "chat")
        faults = list(chat_violations(chat, "chat"))
        if faults:
            raise InvalidRequestError(faults)

        def work() -> tuple[str, list[int]]:
            text = render(tokenizer, chat, "chat")
            return text, tokenizer.encode_ids(text, add_special_tokens=False)

        text, ids = await self._tokenizers.run(work)
        return tokenization_pb2.RenderChatResponse(text=text, token_ids=ids)

    async def StreamTokenize(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self,
        request_iterator: AsyncIterator[tokenization_pb2.StreamTokenizeRequest],
        context: Context,
    ) -> None:
        """Tokenises many texts on one stream, in order."""
        async for request in request_iterator:
            tokenizer = self._pool.model(request.model, "model").tokenizer
            special = not request.HasField("add_special_tokens") or request.add_special_tokens
            ids = await self._encode(tokenizer, request.text, special)
            await context.write(tokenization_pb2.StreamTokenizeResponse(token_ids=ids))

    async def StreamDetokenize(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self,
        request_iterator: AsyncIterator[tokenization_pb2.StreamDetokenizeRequest],
        context: Context,
    ) -> None:
        """Detokenises incrementally, many sequences on one stream."""
        stream: _DetokenizeStream | None = None
        async for request in request_iterator:
            if stream is None:
                stream = _DetokenizeStream(self._pool.model(request.model, "model"))
            text = stream.push(request)
            await context.write(
                tokenization_pb2.StreamDetokenizeResponse(sequence=request.sequence, text=text)
            )

    async def _encode(self, tokenizer: Any, text: str, special: bool) -> list[int]:
        ids: list[int] = await self._tokenizers.run(
            lambda: tokenizer.encode_ids(text, add_special_tokens=special)
        )
        return ids


@dataclass
class _DetokenizeStream:
    """The open sequences of one StreamDetokenize call."""

    model: Model
    sequences: dict[int, Detokenizer] = field(default_factory=dict)

    def push(self, request: tokenization_pb2.StreamDetokenizeRequest) -> str:
        """Returns the text that has become certain."""
        if request.model not in ("", self.model.name):
            raise invalid(
                "model", f"is {request.model!r}; this stream began with {self.model.name!r}"
            )
        ids = request.token_ids[:]
        _check_ids(self.model, ids)
        sequence = self.sequences.get(request.sequence)
        if sequence is None:
            sequence = self._open(request)
        text = sequence.push(ids) if ids else ""
        if request.end:
            text += sequence.held()
            del self.sequences[request.sequence]
        return text

    def _open(self, request: tokenization_pb2.StreamDetokenizeRequest) -> Detokenizer:
        if len(self.sequences) >= OPEN_SEQUENCES_LIMIT:
            raise invalid("sequence", f"{OPEN_SEQUENCES_LIMIT} are open already; end one first")
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        sequence = self.model.tokenizer.detokenizer(skip_special_tokens=skip)
        self.sequences[request.sequence] = sequence
        return sequence


def _check_ids(model: Model, ids: Sequence[int]) -> None:
    limit = model.limits.vocabulary_size
    if ids and max(ids) >= limit:
        index = next(place for place, token in enumerate(ids) if token >= limit)
        raise invalid(f"token_ids[{index}]", f"is {ids[index]}; the vocabulary has {limit} ids")
