"""Protobuf messages of callers, as the worker's own values; what they hold is judged elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from google.protobuf import duration_pb2
from opentelemetry.context import Context
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import invalid
from tokenwire_service.limits import CHOICE_OPTIONS
from tokenwire_service.telemetry import tracing

from tokenwire_worker.core import validation
from tokenwire_worker.core.request import GenerationRequest, TokenIds
from tokenwire_worker.engines.port import Ability, EngineInfo, FreePrefix, Guide, Sampling

_NANOS = 1_000_000_000

_DURATION_SECONDS = 315_576_000_000
"""Bound of a valid Duration, either way: about 10,000 years."""

_TEXT_FORMS = {
    "json_schema": Ability.GUIDED_JSON_SCHEMA,
    "regex": Ability.GUIDED_REGEX,
    "grammar": Ability.GUIDED_GRAMMAR,
}


MOST_CANCELLED = 8 * validation.SEQUENCES_PER_REQUEST
"""Most sequences of a Cancel that are read."""

SLICE_IDS = 32_768
"""Token ids that are read in one turn of the event loop: about 2 ms."""

TRACE_CHARACTERS = 2048
"""Longest traceparent or tracestate that is read: W3C asks for 512 at least. A longer one is
dropped, as W3C has it for what can't be read."""


async def generation_request(message: pb.Request, info: EngineInfo) -> GenerationRequest:
    """Returns what a Request asks for; many ids are read in several turns of the event loop.

    Raises:
        InvalidRequestError: a guide without a form, or with one of a later contract.
    """
    stopping = message.stopping
    budget = message.time_budget if message.HasField("time_budget") else None
    return GenerationRequest(
        prompt=await _token_ids(message.prompt_token_ids, validation.prompt_token_limit(info)),
        output_so_far=await _token_ids(message.output_so_far, info.context_tokens),
        request_id=message.request_id,
        sampling=_sampling(message.sampling, info),
        max_tokens=stopping.max_tokens,
        min_tokens=stopping.min_tokens,
        stop_token_ids=stopping.stop_token_ids,
        ignore_eos=stopping.ignore_eos,
        sequence_count=message.sequence_count,
        logprobs=message.logprobs,
        top_logprobs=message.top_logprobs,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        guide=_guide(message.guide) if message.HasField("guide") else None,
        lora_adapter=message.lora_adapter,
        cache_salt=message.cache_salt,
        priority=message.priority,
        time_budget_s=None if budget is None else seconds(budget),
        prefill_only=message.prefill_only,
        transfer_handle=message.transfer_handle,
        traceparent=_header(message.trace_context.traceparent),
        tracestate=_header(message.trace_context.tracestate),
    )


def trace_parent(request: pb.Request) -> Context | None:
    """Returns the trace context that a request brings, or None."""
    traceparent = _header(request.trace_context.traceparent)
    if not traceparent:
        return None
    tracestate = _header(request.trace_context.tracestate)
    return tracing.extract({tracing.TRACEPARENT: traceparent, tracing.TRACESTATE: tracestate})


def cancelled_sequences(cancel: pb.Cancel) -> list[int]:
    """Returns the sequences that a Cancel names; empty: all.

    A generation has so few that further ones are no sequences of it.
    """
    return cancel.sequences[:MOST_CANCELLED]


def _header(text: str) -> str:
    return text if len(text) <= TRACE_CHARACTERS else ""


async def _token_ids(ids: Sequence[int], limit: int) -> TokenIds:
    """Returns the ids; of more than `limit` only how many there are."""
    read = TokenIds(len(ids))
    if read.length <= limit:
        for start in range(0, read.length, SLICE_IDS):
            if start:
                await asyncio.sleep(0)
            read.add(ids[start : start + SLICE_IDS])
    return read


def seconds(duration: duration_pb2.Duration) -> float:
    """Returns a Duration in seconds; NaN where it is not a valid one."""
    whole, nanos = duration.seconds, duration.nanos
    if abs(whole) > _DURATION_SECONDS or abs(nanos) >= _NANOS or whole * nanos < 0:
        return math.nan
    return whole + nanos / _NANOS


def _sampling(message: pb.Sampling, info: EngineInfo) -> Sampling:
    def given(field: str, neutral: float) -> float:
        return getattr(message, field) if message.HasField(field) else neutral  # type: ignore[arg-type]

    return Sampling(
        temperature=given("temperature", 1.0),
        top_p=given("top_p", 1.0),
        top_k=message.top_k,
        min_p=message.min_p,
        repetition_penalty=given("repetition_penalty", 1.0),
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        seed=message.seed if message.HasField("seed") else None,
        logit_bias=tuple(
            (each.token_id, each.bias) for each in message.logit_bias[: validation.LOGIT_BIASES + 1]
        ),
        # Of what is too much, so much is read that it shows.
        banned_sequences=tuple(
            tuple(each.ids[: validation.BANNED_SEQUENCE_IDS + 1])
            for each in message.banned_sequences[: info.banned_sequences + 1]
        ),
    )


def _guide(message: pb.Guide) -> Guide:
    form = message.WhichOneof("form")
    if form is None:
        raise invalid("request.guide", "is set, but none of the forms that this worker knows is")
    prefix = None
    if message.HasField("free_prefix"):
        prefix = FreePrefix(message.free_prefix.begin, message.free_prefix.end)
    if form == "json_object":
        return Guide(Ability.GUIDED_JSON_OBJECT, free_prefix=prefix)
    if form == "choice":
        options = message.choice.options
        few = len(options) <= CHOICE_OPTIONS
        return Guide(Ability.GUIDED_CHOICE, "", tuple(options) if few else options, prefix)
    return Guide(_TEXT_FORMS[form], getattr(message, form), free_prefix=prefix)
