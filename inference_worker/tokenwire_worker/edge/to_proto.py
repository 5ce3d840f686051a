"""The worker's values as protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf import duration_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_service.status import to_status

from tokenwire_worker.core.frame import Frame
from tokenwire_worker.core.generations import Completion, Ending, Reason
from tokenwire_worker.dispatcher import Load, Pace
from tokenwire_worker.engines.port import Ability, KvEvent, KvRemoved, KvStored, TokenLogprob

_REASONS = {
    Reason.STOP: pb.FINISH_REASON_STOP,
    Reason.LENGTH: pb.FINISH_REASON_LENGTH,
    Reason.TIME_BUDGET: pb.FINISH_REASON_TIME_BUDGET,
    Reason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}

_CAPABILITIES = {
    Ability.LOGPROBS: worker_pb2.CAPABILITY_LOGPROBS,
    Ability.TOP_LOGPROBS: worker_pb2.CAPABILITY_TOP_LOGPROBS,
    Ability.GUIDED_JSON_SCHEMA: worker_pb2.CAPABILITY_GUIDED_JSON_SCHEMA,
    Ability.GUIDED_JSON_OBJECT: worker_pb2.CAPABILITY_GUIDED_JSON_OBJECT,
    Ability.GUIDED_REGEX: worker_pb2.CAPABILITY_GUIDED_REGEX,
    Ability.GUIDED_GRAMMAR: worker_pb2.CAPABILITY_GUIDED_GRAMMAR,
    Ability.GUIDED_CHOICE: worker_pb2.CAPABILITY_GUIDED_CHOICE,
    Ability.FREE_PREFIX: worker_pb2.CAPABILITY_FREE_PREFIX,
    Ability.LORA: worker_pb2.CAPABILITY_LORA,
    Ability.CACHE_SALT: worker_pb2.CAPABILITY_CACHE_SALT,
    Ability.MIN_P: worker_pb2.CAPABILITY_MIN_P,
    Ability.KV_EVENTS: worker_pb2.CAPABILITY_KV_EVENTS,
    Ability.CACHED_PROMPT_TOKENS: worker_pb2.CAPABILITY_CACHED_PROMPT_TOKENS,
    Ability.LOGIT_BIAS: worker_pb2.CAPABILITY_LOGIT_BIAS,
    Ability.BANNED_SEQUENCES: worker_pb2.CAPABILITY_BANNED_SEQUENCES,
    Ability.PROMPT_LOGPROBS: worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
}


def exchange_response(frame: Frame) -> pb.ExchangeResponse:
    """Returns a frame as one message; the hot path of the worker."""
    message = pb.ExchangeResponse(
        handles=frame.handles,
        sequences=() if frame.all_first else frame.sequences,
        counts=() if frame.all_single else frame.counts,
        token_ids=frame.token_ids,
        accepted=frame.accepted,
    )
    for handle, prompt, start, end in frame.prompts:
        tokens = _logprobs(prompt.part(start, end))
        message.prompt_logprobs.add(handle=handle, token_offset=start, tokens=tokens)
    for entry, logprobs in frame.logprobs:
        message.logprobs.add(entry=entry, tokens=_logprobs(logprobs))
    for handle, sequence, how in frame.endings:
        message.endings.add(handle=handle, sequence=sequence, ending=ending(how))
    for handle, completion in frame.completions:
        message.completions.add(handle=handle, completed=completed(completion))
    for handle, error in frame.failures:
        message.failures.add(handle=handle, status=to_status(error))
    return message


def execute_responses(frame: Frame) -> Iterator[pb.ExecuteResponse]:
    """Returns a frame of one generation as messages: of the prompt, and then of each sequence."""
    for _, prompt, begin, end in frame.prompts:
        told = pb.PromptLogprobs(token_offset=begin, tokens=_logprobs(prompt.part(begin, end)))
        yield pb.ExecuteResponse(prompt_logprobs=told)
    sequences: dict[int, pb.Tokens] = {}
    logprobs = dict(frame.logprobs)
    start = 0
    for entry, (sequence, count) in enumerate(zip(frame.sequences, frame.counts, strict=True)):
        tokens = sequences.setdefault(sequence, pb.Tokens(sequence=sequence))
        tokens.token_ids.extend(frame.token_ids[start : start + count])
        tokens.logprobs.extend(_logprobs(logprobs.get(entry, ())))
        start += count
    for _, sequence, how in frame.endings:
        tokens = sequences.setdefault(sequence, pb.Tokens(sequence=sequence))
        tokens.ending.CopyFrom(ending(how))
    for tokens in sequences.values():
        yield pb.ExecuteResponse(tokens=tokens)
    for _, completion in frame.completions:
        yield pb.ExecuteResponse(completed=completed(completion))


def ending(how: Ending) -> pb.Ending:
    """Returns how a sequence ended."""
    return pb.Ending(reason=_REASONS[how.reason], stop_token_id=how.stop_token_id)


def completed(completion: Completion) -> pb.Completed:
    """Returns what was counted and timed."""
    return pb.Completed(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        cached_prompt_tokens=completion.cached_prompt_tokens,
        queue=_duration(completion.queue_s),
        prefill=_duration(completion.prefill_s),
        decode=_duration(completion.decode_s),
        transfer_handle=completion.transfer_handle,
        fetched_prompt_tokens=completion.fetched_prompt_tokens,
    )


def capabilities(abilities: Iterable[Ability]) -> list[worker_pb2.Capability.ValueType]:
    """Returns what an engine can do, in the contract's order."""
    return sorted(_CAPABILITIES[ability] for ability in abilities)


def load_response(load: Load, pace: Pace, description_number: int) -> worker_pb2.WatchLoadResponse:
    """Returns a load, a pace and the number of the worker's description."""
    return worker_pb2.WatchLoadResponse(
        running_sequences=load.running_sequences,
        waiting_requests=load.waiting_requests,
        kv_cache_usage=load.kv_cache_usage,
        steps=load.steps,
        generated_tokens=load.generated_tokens,
        draining=load.draining,
        step=_duration(pace.step_s),
        queue=_duration(pace.queue_s),
        description_number=description_number,
    )


def kv_events_response(number: int, events: Sequence[KvEvent]) -> worker_pb2.WatchKvEventsResponse:
    """Returns KV cache events, at least one, of which the first has this number."""
    message = _kv_event(number, events[0])
    message.more.extend(
        _kv_event(following, event) for following, event in enumerate(events[1:], number + 1)
    )
    return message


def _kv_event(number: int, event: KvEvent) -> worker_pb2.WatchKvEventsResponse:
    message = worker_pb2.WatchKvEventsResponse(number=number)
    if isinstance(event, KvStored):
        stored = message.stored
        stored.parent_hash = event.parent_hash
        stored.block_hashes.extend(event.block_hashes)
        stored.token_ids.extend(event.token_ids)
        stored.lora_adapter = event.lora_adapter
        stored.cache_salt = event.cache_salt
    elif isinstance(event, KvRemoved):
        message.removed.block_hashes.extend(event.block_hashes)
    else:
        message.cleared.SetInParent()
    return message


def _logprobs(logprobs: Iterable[TokenLogprob]) -> Iterator[pb.TokenLogprob]:
    for token in logprobs:
        yield pb.TokenLogprob(
            token_id=token.token_id,
            logprob=token.logprob,
            alternatives=[
                pb.Alternative(token_id=other.token_id, logprob=other.logprob)
                for other in token.alternatives
            ],
        )


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)
