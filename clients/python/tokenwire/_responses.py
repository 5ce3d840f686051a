"""Protobuf responses to the client's types, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from google.protobuf import duration_pb2
from google.protobuf.descriptor import EnumDescriptor

from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2, tokenization_pb2
from tokenwire.types import (
    Accepted,
    Activity,
    Alternative,
    Attempt,
    ConversationPrompt,
    FinishReason,
    ModelInfo,
    Outcome,
    Quantiles,
    Record,
    RenderedChat,
    Stage,
    Timings,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
    Usage,
    WorkerInfo,
)

_REASONS = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_TIME_BUDGET: FinishReason.TIME_BUDGET,
    generation_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    generation_pb2.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
    generation_pb2.FINISH_REASON_INTERRUPTED: FinishReason.INTERRUPTED,
}
_OUTCOMES = {
    activity_pb2.OUTCOME_COMPLETED: Outcome.COMPLETED,
    activity_pb2.OUTCOME_CANCELLED: Outcome.CANCELLED,
    activity_pb2.OUTCOME_REFUSED: Outcome.REFUSED,
    activity_pb2.OUTCOME_FAILED: Outcome.FAILED,
}


def accepted(message: generation_pb2.Accepted) -> Accepted:
    """Returns what the server says when a worker takes a request."""
    return Accepted(
        message.request_id,
        message.prompt_token_count,
        message.trace_id,
        message.resume_token,
        _seconds(message.detach_ttl) if message.HasField("detach_ttl") else None,
        message.attached,
        _conversation(message),
    )


def _conversation(message: generation_pb2.Accepted) -> ConversationPrompt | None:
    if not message.HasField("conversation"):
        return None
    made = message.conversation
    return ConversationPrompt(made.messages, made.kept_tokens, made.encoded_tokens)


def attempts(messages: Iterable[generation_pb2.Attempt]) -> list[Attempt]:
    """Returns the workers' parts in a generation."""
    modes = generation_pb2.AttemptMode.DESCRIPTOR
    return [
        Attempt(
            each.worker,
            each.sequence,
            each.token_offset,
            _word(modes, each.mode),
            each.left_because,
        )
        for each in messages
    ]


def logprobs(messages: Iterable[generation_pb2.TokenLogprob]) -> list[TokenLogprob]:
    """Returns the log probabilities of tokens."""
    return [
        TokenLogprob(
            each.token_id,
            each.logprob,
            [
                Alternative(other.token_id, other.logprob, other.token)
                for other in each.alternatives
            ],
            each.token,
        )
        for each in messages
    ]


def tool_call_deltas(messages: Iterable[generation_pb2.ToolCallDelta]) -> list[ToolCallDelta]:
    """Returns what is new of tool calls."""
    return [ToolCallDelta(each.index, each.id, each.name, each.arguments) for each in messages]


def finish_reason(message: generation_pb2.SequenceEnd) -> FinishReason:
    """Returns why a sequence ended."""
    return _REASONS.get(message.reason, FinishReason.UNKNOWN)


def stop_match(message: generation_pb2.SequenceEnd) -> str | int | None:
    """Returns the stop string or stop token id that ended a sequence, if one did."""
    matched = message.WhichOneof("matched")
    return None if matched is None else getattr(message, matched)


def usage(message: generation_pb2.Usage) -> Usage:
    """Returns the tokens counted."""
    cached = message.cached_prompt_tokens if message.HasField("cached_prompt_tokens") else None
    return Usage(message.prompt_tokens, message.completion_tokens, cached)


def timings(message: generation_pb2.Timings) -> Timings:
    """Returns where the time went."""
    first = message.time_to_first_token if message.HasField("time_to_first_token") else None
    mean = message.time_per_output_token if message.HasField("time_per_output_token") else None
    total = message.total if message.HasField("total") else None
    return Timings(
        time_to_first_token_s=None if first is None else _seconds(first),
        time_per_output_token_s=None if mean is None else _seconds(mean),
        total_s=None if total is None else _seconds(total),
        stages=[
            Stage(each.service, each.name, _seconds(each.start), _seconds(each.duration))
            for each in message.stages
        ],
        worker=message.worker,
    )


def tokens(message: tokenization_pb2.TokenizeResponse, *, with_offsets: bool) -> Tokens:
    """Returns a text's token ids."""
    offsets = None
    if with_offsets:
        offsets = list(zip(message.offset_starts[:], message.offset_ends[:], strict=True))
    return Tokens(message.token_ids[:], offsets)


def rendered_chat(message: tokenization_pb2.RenderChatResponse) -> RenderedChat:
    """Returns a chat as the model sees it."""
    return RenderedChat(message.text, message.token_ids[:])


def model(message: model_pb2.Model) -> ModelInfo:
    """Returns a model and what it can do."""
    return ModelInfo(
        name=message.name,
        context_tokens=message.context_tokens,
        prompt_tokens_limit=message.prompt_tokens_limit,
        sequence_count_limit=message.sequence_count_limit,
        vocabulary_size=message.vocabulary_size,
        eos_token_ids=message.eos_token_ids[:],
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        has_chat_template=message.has_chat_template,
        capabilities=[
            _word(model_pb2.Capability.DESCRIPTOR, each) for each in message.capabilities
        ],
        lora_adapters=message.lora_adapters[:],
        ready_worker_count=message.ready_worker_count,
        tool_parser=message.tool_parser,
        reasoning_parser=message.reasoning_parser,
    )


def worker(message: model_pb2.Worker) -> WorkerInfo:
    """Returns a worker, as the frontend sees it."""
    phases = model_pb2.WorkerPhases.DESCRIPTOR
    return WorkerInfo(
        address=message.address,
        name=message.name,
        state=_word(model_pb2.WorkerState.DESCRIPTOR, message.state),
        state_reason=message.state_reason,
        model=message.model,
        engine=message.engine,
        running=message.running,
        waiting=message.waiting,
        in_flight=message.in_flight,
        kv_cache_usage=message.kv_cache_usage,
        phases=_word(phases, message.phases) if message.phases else "any",
    )


def activity(message: activity_pb2.WatchActivityResponse) -> Activity:
    """Returns what the frontend is doing and has just done."""
    outcomes: dict[Outcome, int] = {}
    for each in message.outcomes:
        # Several that this version does not know count as one.
        outcome = _OUTCOMES.get(each.outcome, Outcome.UNKNOWN)
        outcomes[outcome] = outcomes.get(outcome, 0) + each.count
    return Activity(
        workers=[worker(each) for each in message.workers],
        active_generations=message.active_generations,
        generations_limit=message.generations_limit,
        queued_generations=message.queued_generations,
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        outcomes=outcomes,
        window_s=_seconds(message.window),
        time_to_first_token=_quantiles(message.time_to_first_token),
        time_per_output_token=_quantiles(message.time_per_output_token),
        total=_quantiles(message.total),
        records=[record(each) for each in message.records],
        uptime_s=_seconds(message.uptime),
    )


def record(message: activity_pb2.Record) -> Record:
    """Returns a generation that has ended."""
    return Record(
        request_id=message.request_id,
        trace_id=message.trace_id,
        received_at=message.received_at.ToDatetime(UTC),
        model=message.model,
        outcome=_OUTCOMES.get(message.outcome, Outcome.UNKNOWN),
        reason=message.reason,
        route_reason=message.route_reason,
        usage=usage(message.usage),
        timings=timings(message.timings),
    )


def _quantiles(message: activity_pb2.Quantiles) -> Quantiles:
    if not message.count:
        return Quantiles(0)
    values = (message.p50, message.p90, message.p99)
    return Quantiles(message.count, *(_seconds(value) for value in values))


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _word(kind: EnumDescriptor, number: int) -> str:
    """Returns an enum value as a word: CAPABILITY_TOP_LOGPROBS as `top_logprobs`."""
    names = {value.number: value.name for value in kind.values}
    # A newer server may send values that this version has no name for.
    return names.get(number, str(number)).removeprefix(names[0].removesuffix("UNSPECIFIED")).lower()
