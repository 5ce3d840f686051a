"""tokenwire.frontend.v1.TokenizationService."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenwire.frontend.v1 import tokenization_pb2, tokenization_pb2_grpc
from tokenwire_service.errors import InvalidRequestError, invalid
from tokenwire_service.wording import cut

from tokenwire_frontend import errors
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.validation import chat_violations
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import from_proto
from tokenwire_frontend.edge.grpc.read_ahead import ReadAhead
from tokenwire_frontend.models.job_result import TextTooLargeError, TooManyTokensError
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.token_ids import read_ids, write_ids
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers.pool import WorkerPool

Context = grpc.aio.ServicerContext[Any, Any]

OPEN_SEQUENCES_LIMIT = 1024
"""Sequences that one StreamDetokenize call may hold open; each keeps a few ids."""

ANSWER_BYTES_LIMIT = 4 * 2**20 - 1024
"""Most bytes of a unary answer's columns and texts: stubs of every language take 4 MiB by
default."""

STREAMED_BYTES_LIMIT = 2**20 - 1024
"""The same, of a streamed response: the contract has it under 1 MiB."""

DETOKENIZED_IDS_LIMIT = 1_000_000
"""Ids of one Detokenize: with four bytes of text each, the most that an answer holds."""

STREAMED_IDS_LIMIT = 128 * 1024
"""Ids of one StreamDetokenize message: with eight bytes of text each, the most that a response
holds."""


READ_AHEAD_BYTES = 64 * 2**20
"""Requests of all streams together that wait for those before them: as many as wait for the
tokenizer."""

RUN_IDS = 1024
"""Ids that are detokenised before others run: at most about 10 ms, where none is known."""


class TokenizationServicer(tokenization_pb2_grpc.TokenizationServiceServicer):
    """Runs the models' tokenizers and chat templates."""

    def __init__(self, pool: WorkerPool, tokenizers: TokenizerPool) -> None:
        self._pool = pool
        self._tokenizers = tokenizers
        self._ahead = ReadAhead(READ_AHEAD_BYTES)

    async def Tokenize(
        self,
        request: tokenization_pb2.TokenizeRequest,
        context: Context,
    ) -> tokenization_pb2.TokenizeResponse:
        """Turns a text into token ids."""
        model = self._pool.model(request.model, "model")
        text = request.text
        token_bytes = _varint_bytes(model.limits.vocabulary_size)
        if request.with_offsets:
            token_bytes += 2 * _varint_bytes(len(text))
        columns = await self._columns(
            model, request, ANSWER_BYTES_LIMIT // token_bytes, with_offsets=request.with_offsets
        )
        answer = tokenization_pb2.TokenizeResponse()
        fields = (answer.token_ids, answer.offset_starts, answer.offset_ends)
        for column, into in zip(columns, fields, strict=False):
            await write_ids(column, into)
        return answer

    async def Detokenize(
        self,
        request: tokenization_pb2.DetokenizeRequest,
        context: Context,
    ) -> tokenization_pb2.DetokenizeResponse:
        """Turns token ids into text."""
        model = self._pool.model(request.model, "model")
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        _check_count(len(request.token_ids), DETOKENIZED_IDS_LIMIT)
        ids = await read_ids(request.token_ids, model.limits.vocabulary_size, "token_ids")
        try:
            text = await self._tokenizers.decode(
                model.key, ids, skip_special_tokens=skip, most_bytes=ANSWER_BYTES_LIMIT
            )
        except TextTooLargeError as error:
            raise invalid(
                "token_ids",
                f"have a text of {error.size} bytes; an answer has at most {ANSWER_BYTES_LIMIT}; "
                f"use StreamDetokenize, a part at a time",
                reason="ANSWER_TOO_LARGE",
            ) from error
        return tokenization_pb2.DetokenizeResponse(text=text)

    async def RenderChat(
        self,
        request: tokenization_pb2.RenderChatRequest,
        context: Context,
    ) -> tokenization_pb2.RenderChatResponse:
        """Renders a chat with the model's template."""
        model = self._pool.model(request.model, "model")
        if not model.has_chat_template:
            raise errors.no_chat_template(model.name)
        chat = from_proto.chat_prompt(request.chat, "chat")
        faults = list(chat_violations(chat, "chat"))
        if faults:
            raise InvalidRequestError(faults)
        rendered = await self._tokenizers.render(model.key, chat, "chat")
        text_bytes = len(rendered.text.encode())
        token_bytes = _varint_bytes(model.limits.vocabulary_size) * len(rendered.ids)
        if text_bytes + token_bytes > ANSWER_BYTES_LIMIT:
            raise invalid(
                "chat",
                f"renders to a text of {text_bytes} bytes and {len(rendered.ids)} tokens; an "
                f"answer has at most {ANSWER_BYTES_LIMIT} bytes; render fewer messages at a time",
                reason="ANSWER_TOO_LARGE",
            )
        answer = tokenization_pb2.RenderChatResponse(text=rendered.text)
        await write_ids(rendered.ids, answer.token_ids)
        return answer

    async def StreamTokenize(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self,
        request_iterator: AsyncIterator[tokenization_pb2.StreamTokenizeRequest],
        context: Context,
    ) -> None:
        """Tokenises many texts on one stream, in order."""
        async with self._ahead.of(request_iterator) as requests:
            async for request in requests:
                callers.current()  # the credential may be good no longer
                model = self._pool.model(request.model, "model")
                most = STREAMED_BYTES_LIMIT // _varint_bytes(model.limits.vocabulary_size)
                [ids] = await self._columns(model, request, most)
                response = tokenization_pb2.StreamTokenizeResponse()
                await write_ids(ids, response.token_ids)
                await context.write(response)

    async def StreamDetokenize(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self,
        request_iterator: AsyncIterator[tokenization_pb2.StreamDetokenizeRequest],
        context: Context,
    ) -> None:
        """Detokenises incrementally, many sequences on one stream."""
        stream: _DetokenizeStream | None = None
        async with self._ahead.of(request_iterator) as requests:
            async for request in requests:
                callers.current()
                if stream is None:
                    stream = _DetokenizeStream(self._pool.model(request.model, "model"))
                text = await stream.push(request)
                await context.write(
                    tokenization_pb2.StreamDetokenizeResponse(sequence=request.sequence, text=text)
                )

    async def _columns(
        self,
        model: Model,
        request: tokenization_pb2.TokenizeRequest | tokenization_pb2.StreamTokenizeRequest,
        most_tokens: int,
        *,
        with_offsets: bool = False,
    ) -> list[array[int]]:
        special = not request.HasField("add_special_tokens") or request.add_special_tokens
        try:
            fewest = model.tokenizer.fewest_tokens(request.text)
            if fewest > most_tokens:
                raise TooManyTokensError(fewest, at_least=True)
            return await self._tokenizers.encode(
                model.key,
                request.text,
                add_special_tokens=special,
                with_offsets=with_offsets,
                most_tokens=most_tokens,
            )
        except TooManyTokensError as error:
            raise invalid(
                "text",
                f"has {error.told}; a response holds at most {most_tokens}; use StreamTokenize, "
                f"a part of the text at a time",
                reason="ANSWER_TOO_LARGE",
            ) from error


@dataclass
class _DetokenizeStream:
    """The open sequences of one StreamDetokenize call."""

    model: Model
    sequences: dict[int, Detokenizer] = field(default_factory=dict)

    async def push(self, request: tokenization_pb2.StreamDetokenizeRequest) -> str:
        """Returns the text that has become certain."""
        if request.model not in ("", self.model.name):
            raise invalid(
                "model",
                f"is {cut(request.model, 80)!r}; this stream began with {self.model.name!r}",
            )
        _check_count(len(request.token_ids), STREAMED_IDS_LIMIT)
        ids = await read_ids(request.token_ids, self.model.limits.vocabulary_size, "token_ids")
        sequence = self.sequences.get(request.sequence)
        if sequence is None:
            sequence = self._open(request)
        texts = []
        for start in range(0, len(ids), RUN_IDS):
            if start:
                await asyncio.sleep(0)
            texts.append(sequence.push(ids[start : start + RUN_IDS]))
        if request.end:
            texts.append(sequence.held())
            del self.sequences[request.sequence]
        text = "".join(texts)
        size = len(text) if text.isascii() else len(text.encode())
        if size > STREAMED_BYTES_LIMIT:
            raise invalid(
                "token_ids",
                f"have a text of {size} bytes; a response has at most {STREAMED_BYTES_LIMIT}; send "
                f"fewer at a time",
                reason="ANSWER_TOO_LARGE",
            )
        return text

    def _open(self, request: tokenization_pb2.StreamDetokenizeRequest) -> Detokenizer:
        if len(self.sequences) >= OPEN_SEQUENCES_LIMIT:
            raise invalid("sequence", f"{OPEN_SEQUENCES_LIMIT} are open already; end one first")
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        sequence = self.model.tokenizer.detokenizer(skip_special_tokens=skip)
        self.sequences[request.sequence] = sequence
        return sequence


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise invalid(
            "token_ids",
            f"has {count}; at most {limit}; send a part at a time with StreamDetokenize",
        )


def _varint_bytes(limit: int) -> int:
    """Returns the most bytes of a number below the limit on the wire."""
    return max(-(-(limit - 1).bit_length() // 7), 1)
