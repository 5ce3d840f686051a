"""Checks a request against what the engine can do, and completes it into a `Generation`.

Every fault is found, not only the first, and each names its field by its path from the root of
`ExecuteRequest`. A trace context is never at fault: W3C has a broken one replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import attrgetter

from tokenwire_service.errors import FieldViolation
from tokenwire_service.limits import TRANSFER_HANDLE_BYTES
from tokenwire_service.wording import counted, cut

from tokenwire_worker.core.faults import TOLD_FAULTS, Fault, engine_of, unable
from tokenwire_worker.core.guide_validation import guide_faults
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.engines.port import (
    Ability,
    EngineInfo,
    Generation,
    Sampling,
)

REQUEST_ID_CHARACTERS = 128
"""Longest request id (worker.v1.Request.request_id)."""

PRIORITY_BOUND = 100
"""Priorities run from minus this to this."""

CACHE_SALT_CHARACTERS = 256
"""Longest cache salt; it is hashed with every block of the prompt."""

LOGIT_BIASES = 300
"""Most tokens of a request whose logits are biased."""

LOGIT_BIAS_BOUND = 100.0
"""A bias is from minus this to this."""

BANNED_SEQUENCE_IDS = 256
"""Most ids of one banned sequence."""

PROMPT_LOGPROBS = 512 * 1024
"""Most log probabilities of a prompt, alternatives included: 4 MiB in memory, 10 MiB on the
wire."""

SEQUENCES_PER_REQUEST = 128
"""Most sequences of one request, where the engine runs that many at once."""

LEAST_TEMPERATURE = 1e-3
"""Sampling below this is greedy, on every engine. A model's logits differ by about as much from one
batch to another, so a lower temperature would only draw from that noise; and logits divided by one
below 1e-36 overflow float32 and end in NaN, log probabilities too."""

NAME_BYTES = 64
"""Most bytes of a caller's word that a refusal repeats: enough to find it again."""

_NEUTRAL = Sampling()
_PLAIN = Generation(prompt=(), max_tokens=1)


def sequence_count_limit(info: EngineInfo) -> int:
    """Returns the most sequences that one request may ask for."""
    return min(info.running_sequences, SEQUENCES_PER_REQUEST)


def prompt_token_limit(info: EngineInfo) -> int:
    """Returns the most tokens of a prompt: one token of the context is kept for the output."""
    return min(info.prompt_tokens, info.context_tokens - 1)


def violations(request: GenerationRequest, info: EngineInfo) -> list[FieldViolation]:
    """Returns every fault of the request; none means that `complete` may be called."""
    found = [
        *_prompt(request, info),
        *_output_so_far(request, info),
        *_sampling(request.sampling, info),
        *_stopping(request, info),
        *_outputs(request, info),
        *guide_faults(request.guide, info),
        *_transfer(request, info),
        *_rest(request, info),
    ]
    return [FieldViolation(f"request.{field}", description) for field, description in found]


def adapter_fault(name: str, info: EngineInfo) -> str:
    """Returns what is wrong with the name of a LoRA adapter; empty: requests may name it."""
    if not name or name in info.lora_adapters:
        return ""
    known = ", ".join(info.lora_adapters) or "none"
    return f"{cut(name, NAME_BYTES)!r} is not here; there are: {known}"


def complete(request: GenerationRequest, info: EngineInfo) -> Generation:
    """Returns the generation that a request without violations asks for.

    Output that the caller has already is a part of the prompt from here on, and what counts tokens
    of the output is less by as many.
    """
    output = request.output_so_far
    trace = (("traceparent", request.traceparent), ("tracestate", request.tracestate))
    return Generation(
        prompt=request.prompt.ids + output.ids if output.length else request.prompt.ids,
        carried_tokens=output.length,
        max_tokens=max(_max_tokens(request, info) - output.length, 0),
        sampling=_complete_sampling(request.sampling),
        min_tokens=max(request.min_tokens - output.length, 0),
        stop_token_ids=tuple(dict.fromkeys(_stops(request, info))),
        sequence_count=request.sequence_count or 1,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        guide=request.guide,
        lora_adapter=request.lora_adapter,
        cache_salt=request.cache_salt,
        priority=request.priority,
        prefill_only=request.prefill_only,
        transfer_handle=request.transfer_handle,
        trace_headers=tuple(header for header in trace if header[1]),
    )


def _stops(request: GenerationRequest, info: EngineInfo) -> tuple[int, ...]:
    """Returns every id that ends a sequence."""
    own = () if request.ignore_eos else info.eos_token_ids
    return (*request.stop_token_ids, *own)


def not_carried(generation: Generation, info: EngineInfo) -> list[Fault]:
    """Returns what keeps any engine of these bounds from going on after the carried tokens."""
    found: list[Fault] = []
    limit = prompt_token_limit(info)
    if len(generation.prompt) > limit:
        given = counted(len(generation.prompt), "token")
        found.append(
            ("output_so_far", f"{given} with the prompt; the engine reads at most {limit}")
        )
    if generation.prompt_logprobs is not None:
        found.append(
            (
                Ability.PROMPT_LOGPROBS.value,
                "they are sent before the first token, which exists already",
            )
        )
    return found


def not_handed_over(generation: Generation, info: EngineInfo) -> list[Fault]:
    """Returns what keeps another engine from going on exactly after the prompt alone."""
    why = f"{engine_of(info)}, has no part of it go along with the prompt"
    return [
        (path, why)
        for path in sorted(info.not_handed_over)
        if attrgetter(path)(generation) != attrgetter(path)(_PLAIN)
    ]


def _complete_sampling(sampling: Sampling) -> Sampling:
    if 0 < sampling.temperature < LEAST_TEMPERATURE:
        return replace(sampling, temperature=0.0)
    return sampling


def _max_tokens(request: GenerationRequest, info: EngineInfo) -> int:
    left = info.context_tokens - request.prompt.length
    return min(request.max_tokens or left, left)


def _prompt(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    prompt, field = request.prompt, "prompt_token_ids"
    limit = prompt_token_limit(info)
    if not prompt.length:
        yield field, "empty; at least one token id is required"
    elif prompt.length > limit:
        given = counted(prompt.length, "token")
        yield field, f"{given}; this worker takes prompts of at most {limit}"
    elif prompt.highest >= info.vocabulary_size:
        yield f"{field}[{prompt.highest_at}]", _beyond_vocabulary(prompt.highest, info)


def _output_so_far(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    output, field = request.output_so_far, "output_so_far"
    if not output.length:
        return
    room = max(info.context_tokens - request.prompt.length, 0)
    if output.length > room:
        given = counted(output.length, "token")
        yield field, f"{given}; after this prompt the context has room for {room}"
    elif output.highest >= info.vocabulary_size:
        yield f"{field}[{output.highest_at}]", _beyond_vocabulary(output.highest, info)
    else:
        # A stop token may be the last: the sequence has then ended.
        stops = frozenset(_stops(request, info))
        first = max(request.min_tokens - 1, 0)
        before_last = output.ids[first:-1]
        if not stops.isdisjoint(before_last):
            at = first + next(at for at, token in enumerate(before_last) if token in stops)
            yield f"{field}[{at}]", f"{output.ids[at]} ends the sequence, but ids follow it"
    if request.sequence_count > 1:
        yield "sequence_count", f"{request.sequence_count} sequences; 1 with output_so_far"


def _beyond_vocabulary(token_id: int, info: EngineInfo) -> str:
    return f"{token_id} is not a token id; the vocabulary has 0 to {info.vocabulary_size - 1}"


def _sampling(sampling: Sampling, info: EngineInfo) -> Iterator[Fault]:
    # Written so that NaN, of which every comparison is false, falls outside each range.
    hottest = info.highest_temperature
    if not 0 <= sampling.temperature <= hottest:
        yield "sampling.temperature", f"{sampling.temperature:g} is not within 0 to {hottest:g}"
    if not 0 < sampling.top_p <= 1:
        yield "sampling.top_p", f"{sampling.top_p:g} is not above 0 and at most 1"
    if not 0 <= sampling.min_p <= 1:
        yield "sampling.min_p", f"{sampling.min_p:g} is not within 0 to 1"
    elif sampling.min_p and Ability.MIN_P not in info.abilities:
        yield unable(Ability.MIN_P, info)
    if not 0 < sampling.repetition_penalty < math.inf:
        yield (
            "sampling.repetition_penalty",
            f"{sampling.repetition_penalty:g} is not above 0 and finite",
        )
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        if not -2 <= value <= 2:
            yield f"sampling.{name}", f"{value:g} is not within -2 to 2"
    for name in sorted(info.unsupported_sampling):
        if getattr(sampling, name) != getattr(_NEUTRAL, name):
            yield f"sampling.{name}", f"{engine_of(info)}, does not support it as it is set up"
    if sampling.logit_bias:
        yield from _logit_bias(sampling.logit_bias, info)
    if sampling.banned_sequences:
        yield from _banned_sequences(sampling.banned_sequences, info)


def _logit_bias(biases: Sequence[tuple[int, float]], info: EngineInfo) -> Iterator[Fault]:
    field = Ability.LOGIT_BIAS.value
    if Ability.LOGIT_BIAS not in info.abilities:
        yield unable(Ability.LOGIT_BIAS, info)
        return
    if len(biases) > LOGIT_BIASES:
        yield field, f"more than {LOGIT_BIASES} tokens"
    yield from islice(_each_logit_bias(biases[:LOGIT_BIASES], info), TOLD_FAULTS)


def _each_logit_bias(biases: Sequence[tuple[int, float]], info: EngineInfo) -> Iterator[Fault]:
    seen: set[int] = set()
    for at, (token_id, bias) in enumerate(biases):
        field = f"{Ability.LOGIT_BIAS.value}[{at}]"
        if token_id >= info.vocabulary_size:
            yield f"{field}.token_id", _beyond_vocabulary(token_id, info)
        elif token_id in seen:
            yield f"{field}.token_id", f"{token_id} came before"
        seen.add(token_id)
        if not -LOGIT_BIAS_BOUND <= bias <= LOGIT_BIAS_BOUND:
            bound = f"{LOGIT_BIAS_BOUND:g}"
            yield f"{field}.bias", f"{bias:g} is not within -{bound} to {bound}"


def _banned_sequences(sequences: Sequence[Sequence[int]], info: EngineInfo) -> Iterator[Fault]:
    field = Ability.BANNED_SEQUENCES.value
    if Ability.BANNED_SEQUENCES not in info.abilities:
        yield unable(Ability.BANNED_SEQUENCES, info)
        return
    limit = info.banned_sequences
    if len(sequences) > limit:
        yield field, f"more than {limit} sequences"
        return
    ids = sum(map(len, sequences))
    if ids > info.banned_ids:
        yield field, f"{ids} ids in all; at most {info.banned_ids}"
        return
    yield from islice(_each_banned_sequence(sequences, info), TOLD_FAULTS)


def _each_banned_sequence(sequences: Sequence[Sequence[int]], info: EngineInfo) -> Iterator[Fault]:
    for at, ids in enumerate(sequences):
        field = f"{Ability.BANNED_SEQUENCES.value}[{at}].ids"
        if not 1 <= len(ids) <= BANNED_SEQUENCE_IDS:
            yield field, "empty" if not ids else f"more than {BANNED_SEQUENCE_IDS} ids"
        elif max(ids) >= info.vocabulary_size:
            place = next(n for n, each in enumerate(ids) if each >= info.vocabulary_size)
            yield f"{field}[{place}]", _beyond_vocabulary(ids[place], info)


def _stopping(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    stops = request.stop_token_ids
    limit = info.stop_token_ids
    if len(stops) > limit:
        yield "stopping.stop_token_ids", f"{len(stops)} ids; at most {limit}"
    unknown = [at for at, token in enumerate(stops[:limit]) if token >= info.vocabulary_size]
    for at in unknown[:TOLD_FAULTS]:
        yield f"stopping.stop_token_ids[{at}]", _beyond_vocabulary(stops[at], info)
    most = _max_tokens(request, info)
    if request.min_tokens and request.min_tokens > max(most, 0):
        yield (
            "stopping.min_tokens",
            f"{request.min_tokens} is more than the {max(most, 0)} that may be generated",
        )
    if request.guide is None:
        return
    if request.min_tokens:
        # A form may be complete before the minimum, and then no token at all is allowed.
        yield "stopping.min_tokens", "can't go with a guide, whose form says when it is complete"
    if request.ignore_eos and not stops:
        # After the form only a token that ends the sequence may come.
        yield "stopping.ignore_eos", "can't go with a guide, unless there are stop_token_ids"


def _outputs(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    limit = sequence_count_limit(info)
    if request.sequence_count > limit:
        yield "sequence_count", f"{request.sequence_count} sequences; at most {limit}"
    if request.logprobs and Ability.LOGPROBS not in info.abilities:
        yield unable(Ability.LOGPROBS, info)
    if request.top_logprobs:
        if Ability.TOP_LOGPROBS not in info.abilities:
            yield unable(Ability.TOP_LOGPROBS, info)
        elif request.top_logprobs > info.top_logprobs:
            yield (
                "top_logprobs",
                f"{request.top_logprobs} alternatives; at most {info.top_logprobs}",
            )
        if not request.logprobs:
            yield "top_logprobs", "needs logprobs to be set"
    if request.prompt_logprobs is not None:
        yield from _prompt_logprobs(request.prompt.length, request.prompt_logprobs, info)


def _prompt_logprobs(tokens: int, alternatives: int, info: EngineInfo) -> Iterator[Fault]:
    field = Ability.PROMPT_LOGPROBS.value
    if Ability.PROMPT_LOGPROBS not in info.abilities:
        yield unable(Ability.PROMPT_LOGPROBS, info)
    elif alternatives > info.top_logprobs:
        yield field, f"{alternatives} alternatives; at most {info.top_logprobs}"
    elif (count := tokens * (1 + alternatives)) > PROMPT_LOGPROBS:
        yield field, f"{count} log probabilities of the prompt; at most {PROMPT_LOGPROBS}"


def _transfer(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    """Yields what is wrong with a prompt that goes to another worker, or comes from one."""
    handle_bytes = len(request.transfer_handle)
    if not (request.prefill_only or handle_bytes):
        return
    field = "prefill_only" if request.prefill_only else "transfer_handle"
    if not info.transfers:
        yield field, f"{engine_of(info)}, does not support it as it is set up"
    if request.sequence_count > 1:
        yield field, f"can't go with {request.sequence_count} sequences"
    if request.prompt_logprobs is not None:
        yield field, "can't go with prompt_logprobs"
    if request.output_so_far.length:
        yield field, "can't go with output_so_far"
    if request.prefill_only and handle_bytes:
        yield "transfer_handle", "can't go with prefill_only"
    if handle_bytes > TRANSFER_HANDLE_BYTES:
        yield "transfer_handle", f"{handle_bytes} bytes; at most {TRANSFER_HANDLE_BYTES}"


def _rest(request: GenerationRequest, info: EngineInfo) -> Iterator[Fault]:
    if len(request.request_id) > REQUEST_ID_CHARACTERS:
        yield (
            "request_id",
            f"{len(request.request_id)} characters; at most {REQUEST_ID_CHARACTERS}",
        )
    if request.lora_adapter:
        if Ability.LORA not in info.abilities:
            yield unable(Ability.LORA, info)
        elif fault := adapter_fault(request.lora_adapter, info):
            yield "lora_adapter", fault
    if request.cache_salt:
        if Ability.CACHE_SALT not in info.abilities:
            yield unable(Ability.CACHE_SALT, info)
        elif len(request.cache_salt) > CACHE_SALT_CHARACTERS:
            yield (
                "cache_salt",
                f"{len(request.cache_salt)} characters; at most {CACHE_SALT_CHARACTERS}",
            )
    if not -PRIORITY_BOUND <= request.priority <= PRIORITY_BOUND:
        yield "priority", f"{request.priority} is not within -{PRIORITY_BOUND} to {PRIORITY_BOUND}"
    if request.time_budget_s is not None and math.isnan(request.time_budget_s):
        yield "time_budget", "not a valid duration"
