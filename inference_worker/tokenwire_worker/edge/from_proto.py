"""Protobuf messages of callers, as the worker's own values; what they hold is judged elsewhere."""

from __future__ import annotations

import math

from google.protobuf import duration_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import invalid

from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.engines.port import Ability, Guide, Sampling

_NANOS = 1_000_000_000

_DURATION_SECONDS = 315_576_000_000
"""Bound of a valid Duration, either way: about 10,000 years."""

_TEXT_FORMS = {
    "json_schema": Ability.GUIDED_JSON_SCHEMA,
    "regex": Ability.GUIDED_REGEX,
    "grammar": Ability.GUIDED_GRAMMAR,
}


def generation_request(message: pb.Request) -> GenerationRequest:
    """Returns what a Request asks for.

    Raises:
        InvalidRequestError: a guide without a form, or with one of a later contract.
    """
    stopping = message.stopping
    budget = message.time_budget if message.HasField("time_budget") else None
    return GenerationRequest(
        prompt=list(message.prompt_token_ids),
        request_id=message.request_id,
        sampling=_sampling(message.sampling),
        max_tokens=stopping.max_tokens,
        min_tokens=stopping.min_tokens,
        stop_token_ids=tuple(stopping.stop_token_ids),
        ignore_eos=stopping.ignore_eos,
        sequence_count=message.sequence_count,
        logprobs=message.logprobs,
        top_logprobs=message.top_logprobs,
        guide=_guide(message.guide) if message.HasField("guide") else None,
        lora_adapter=message.lora_adapter,
        cache_salt=message.cache_salt,
        priority=message.priority,
        time_budget_s=None if budget is None else seconds(budget),
        traceparent=message.trace_context.traceparent,
        tracestate=message.trace_context.tracestate,
    )


def seconds(duration: duration_pb2.Duration) -> float:
    """Returns a Duration in seconds; NaN where it is not a valid one."""
    whole, nanos = duration.seconds, duration.nanos
    if abs(whole) > _DURATION_SECONDS or abs(nanos) >= _NANOS or whole * nanos < 0:
        return math.nan
    return whole + nanos / _NANOS


def _sampling(message: pb.Sampling) -> Sampling:
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
    )


def _guide(message: pb.Guide) -> Guide:
    form = message.WhichOneof("form")
    if form is None:
        raise invalid("request.guide", "is set, but none of the forms that this worker knows is")
    if form == "json_object":
        return Guide(Ability.GUIDED_JSON_OBJECT)
    if form == "choice":
        return Guide(Ability.GUIDED_CHOICE, options=tuple(message.choice.options))
    return Guide(_TEXT_FORMS[form], text=getattr(message, form))
