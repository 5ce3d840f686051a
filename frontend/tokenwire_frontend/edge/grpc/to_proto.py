"""Plain values as the public contract's messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tokenwire.frontend.v1 import generation_pb2, model_pb2, prompt_pb2

from tokenwire_frontend.core.channels import CallDelta
from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.log import Delta, End, Finish
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.phases import Phases
from tokenwire_frontend.core.prompt_log import PromptPart
from tokenwire_frontend.edge.grpc import wire
from tokenwire_frontend.generation.conversation import Turn
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.messages import duration
from tokenwire_frontend.workers.pool import WorkerPool

_FINISH_REASONS = {
    Finish.UNSPECIFIED: generation_pb2.FINISH_REASON_UNSPECIFIED,
    Finish.STOP: generation_pb2.FINISH_REASON_STOP,
    Finish.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
    Finish.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    Finish.TIME_BUDGET: generation_pb2.FINISH_REASON_TIME_BUDGET,
    Finish.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    Finish.INTERRUPTED: generation_pb2.FINISH_REASON_INTERRUPTED,
}

_CAPABILITIES = {
    Ability.LOGPROBS: model_pb2.CAPABILITY_LOGPROBS,
    Ability.TOP_LOGPROBS: model_pb2.CAPABILITY_TOP_LOGPROBS,
    Ability.GUIDED_JSON_SCHEMA: model_pb2.CAPABILITY_GUIDED_JSON_SCHEMA,
    Ability.GUIDED_JSON_OBJECT: model_pb2.CAPABILITY_GUIDED_JSON_OBJECT,
    Ability.GUIDED_REGEX: model_pb2.CAPABILITY_GUIDED_REGEX,
    Ability.GUIDED_GRAMMAR: model_pb2.CAPABILITY_GUIDED_GRAMMAR,
    Ability.GUIDED_CHOICE: model_pb2.CAPABILITY_GUIDED_CHOICE,
    Ability.LORA: model_pb2.CAPABILITY_LORA,
    Ability.CACHE_SALT: model_pb2.CAPABILITY_CACHE_SALT,
    Ability.MIN_P: model_pb2.CAPABILITY_MIN_P,
    Ability.LOGIT_BIAS: model_pb2.CAPABILITY_LOGIT_BIAS,
    Ability.BANNED_WORDS: model_pb2.CAPABILITY_BANNED_WORDS,
    Ability.PROMPT_LOGPROBS: model_pb2.CAPABILITY_PROMPT_LOGPROBS,
}

_STATES = {
    LinkState.CONNECTING: model_pb2.WORKER_STATE_CONNECTING,
    LinkState.READY: model_pb2.WORKER_STATE_READY,
    LinkState.DRAINING: model_pb2.WORKER_STATE_DRAINING,
    LinkState.REFUSED: model_pb2.WORKER_STATE_REFUSED,
    LinkState.SUSPECT: model_pb2.WORKER_STATE_SUSPECT,
    LinkState.LOST: model_pb2.WORKER_STATE_LOST,
}


_PHASES = {
    Phases.ANY: model_pb2.WORKER_PHASES_UNSPECIFIED,
    Phases.PREFILL: model_pb2.WORKER_PHASES_PREFILL,
    Phases.DECODE: model_pb2.WORKER_PHASES_DECODE,
}


def accepted(generation: Generation, *, attached: bool = False) -> bytes:
    """Returns the event that comes first, an Accepted.

    Args:
        generation: the generation.
        attached: whether it was there before the caller's request.
    """
    record, resume, turn = generation.record, generation.resume, generation.turn
    told = wire.accepted(record.request_id, generation.prompt_tokens, record.trace_id)
    if resume is None and turn is None:
        return told
    more = generation_pb2.Accepted(conversation=conversation_prompt(turn) if turn else None)
    if resume is not None:
        more.resume_token, more.attached = resume.token, attached
        more.detach_ttl.CopyFrom(duration(resume.ttl_s))
    # Messages one after the other are one that has the fields of all.
    return told + more.SerializeToString()


def conversation_prompt(turn: Turn) -> generation_pb2.ConversationPrompt:
    """Returns how the prompt of a conversation's turn was made."""
    return generation_pb2.ConversationPrompt(
        messages=turn.chat.held,
        kept_tokens=turn.kept_tokens,
        encoded_tokens=turn.encoded_tokens,
    )


def prompt_logprobs(value: PromptPart) -> generation_pb2.PromptLogprobs:
    """Returns the event that carries a part of the prompt's log probabilities."""
    return generation_pb2.PromptLogprobs(
        token_offset=value.token_offset,
        tokens=token_logprobs(value.logprobs, value.token_bytes),
    )


def put_delta(value: Delta, message: generation_pb2.Delta) -> None:
    """Writes what is new of one sequence into an empty message.

    In place, since a message that is made for another is copied into it: this is the hot path.
    """
    message.token_offset = value.token_offset
    message.token_ids.extend(value.token_ids)
    message.text = value.text
    message.text_offset = value.text_offset
    if value.sequence:
        message.sequence = value.sequence
    if value.reasoning_offset or value.reasoning:
        message.reasoning = value.reasoning
        message.reasoning_offset = value.reasoning_offset
    if value.calls:
        message.tool_calls.extend(map(_call_delta, value.calls))
    if value.logprobs:
        message.logprobs.extend(token_logprobs(value.logprobs, value.token_bytes))
    if value.end is not None:
        message.end.CopyFrom(_sequence_end(value.end))


def sequence(value: Delta) -> generation_pb2.Sequence:
    """Returns a sequence whose deltas were never taken until its end."""
    return generation_pb2.Sequence(
        text=value.text,
        token_ids=value.token_ids,
        logprobs=token_logprobs(value.logprobs, value.token_bytes),
        end=_sequence_end(value.end) if value.end else None,
        reasoning=value.reasoning,
        tool_calls=[
            prompt_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in value.calls
        ],
    )


def token_logprobs(
    values: Sequence[TokenLogprob], token_bytes: Mapping[int, bytes]
) -> Iterator[generation_pb2.TokenLogprob]:
    """Yields log probabilities with the bytes of their tokens."""
    for value in values:
        yield generation_pb2.TokenLogprob(
            token_id=value.token_id,
            logprob=value.logprob,
            token=token_bytes[value.token_id],
            alternatives=[
                generation_pb2.Alternative(
                    token_id=token_id, logprob=logprob, token=token_bytes[token_id]
                )
                for token_id, logprob in value.alternatives
            ],
        )


def usage(value: Completion) -> generation_pb2.Usage:
    """Returns the tokens counted."""
    return generation_pb2.Usage.FromString(wire.usage(value))


def timings(value: Completion) -> generation_pb2.Timings:
    """Returns where the time went."""
    return generation_pb2.Timings.FromString(wire.timings(value))


def model(value: Model) -> model_pb2.Model:
    """Returns a model's description."""
    limits = value.limits
    return model_pb2.Model(
        name=value.name,
        context_tokens=limits.context_tokens,
        prompt_tokens_limit=limits.prompt_tokens,
        sequence_count_limit=limits.sequence_count,
        vocabulary_size=limits.vocabulary_size,
        eos_token_ids=limits.eos_token_ids,
        tokenizer_fingerprint=value.fingerprint,
        has_chat_template=value.has_chat_template,
        capabilities=sorted(
            _CAPABILITIES[ability] for ability in limits.abilities if ability in _CAPABILITIES
        ),
        lora_adapters=sorted(limits.lora_adapters),
        ready_worker_count=value.ready_workers,
        tool_parser=value.formats.tool_parser,
        reasoning_parser=value.formats.reasoning_parser,
    )


def workers(pool: WorkerPool) -> list[model_pb2.Worker]:
    """Returns the workers' descriptions, by address."""
    return [_worker(link) for link in sorted(pool.links, key=lambda link: link.address)]


def _worker(link: WorkerLink) -> model_pb2.Worker:
    info = link.info
    return model_pb2.Worker(
        address=link.address,
        name=info.name if info else "",
        state=_STATES[link.state],
        state_reason=link.state_reason,
        model=info.model if info else "",
        engine=info.engine if info else "",
        running=link.load.running_sequences,
        waiting=link.load.waiting_requests,
        in_flight=link.in_flight,
        kv_cache_usage=link.load.kv_cache_usage,
        phases=_PHASES[info.phases if info else Phases.ANY],
    )


def _call_delta(value: CallDelta) -> generation_pb2.ToolCallDelta:
    return generation_pb2.ToolCallDelta(
        index=value.index,
        id=value.id,
        name=value.name,
        arguments=value.arguments,
        arguments_offset=value.arguments_offset,
    )


def _sequence_end(value: End) -> generation_pb2.SequenceEnd:
    message = generation_pb2.SequenceEnd(reason=_FINISH_REASONS[value.finish])
    if value.stop is not None:
        message.stop = value.stop
    elif value.stop_token_id is not None:
        message.stop_token_id = value.stop_token_id
    return message
