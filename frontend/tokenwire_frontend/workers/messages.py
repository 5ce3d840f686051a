"""The worker contract's messages as plain values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.errors import (
    INVALID_FIELD,
    Code,
    FieldViolation,
    InvalidRequestError,
    ServiceError,
)
from tokenwire_service.limits import LORA_ADAPTERS, NAME_CHARACTERS, TRANSFER_HANDLE_BYTES
from tokenwire_service.status import UNKNOWN, from_status

from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.core.model import Ability, ModelLimits, SamplingDefaults
from tokenwire_frontend.core.phases import Phases
from tokenwire_frontend.core.request import GenerationRequest
from tokenwire_frontend.core.validation import SEQUENCE_COUNT_LIMIT, TOP_LOGPROBS_LIMIT
from tokenwire_frontend.models.token_ids import write_ids
from tokenwire_frontend.workers.receiver import WorkerReport

WorkerRequest = execution_pb2.Request
"""A generation's request on its way to a worker."""

CONTRACT_REVISION = 1
"""Oldest revision of the worker contract that this frontend can work with."""

OUTPUT_REVISION = 4
"""Revision from which on a worker knows of `Request.output_so_far`."""

_ABILITIES = {
    worker_pb2.CAPABILITY_LOGPROBS: Ability.LOGPROBS,
    worker_pb2.CAPABILITY_TOP_LOGPROBS: Ability.TOP_LOGPROBS,
    worker_pb2.CAPABILITY_GUIDED_JSON_SCHEMA: Ability.GUIDED_JSON_SCHEMA,
    worker_pb2.CAPABILITY_GUIDED_JSON_OBJECT: Ability.GUIDED_JSON_OBJECT,
    worker_pb2.CAPABILITY_GUIDED_REGEX: Ability.GUIDED_REGEX,
    worker_pb2.CAPABILITY_GUIDED_GRAMMAR: Ability.GUIDED_GRAMMAR,
    worker_pb2.CAPABILITY_GUIDED_CHOICE: Ability.GUIDED_CHOICE,
    worker_pb2.CAPABILITY_FREE_PREFIX: Ability.FREE_PREFIX,
    worker_pb2.CAPABILITY_LORA: Ability.LORA,
    worker_pb2.CAPABILITY_CACHE_SALT: Ability.CACHE_SALT,
    worker_pb2.CAPABILITY_MIN_P: Ability.MIN_P,
    worker_pb2.CAPABILITY_LOGIT_BIAS: Ability.LOGIT_BIAS,
    worker_pb2.CAPABILITY_BANNED_SEQUENCES: Ability.BANNED_WORDS,
    worker_pb2.CAPABILITY_PROMPT_LOGPROBS: Ability.PROMPT_LOGPROBS,
}

_PHASES = {
    worker_pb2.PHASES_PREFILL: Phases.PREFILL,
    worker_pb2.PHASES_DECODE: Phases.DECODE,
}
"""A worker of another kind gets generations whole."""

FINISHES = {
    execution_pb2.FINISH_REASON_STOP: Finish.STOP,
    execution_pb2.FINISH_REASON_LENGTH: Finish.LENGTH,
    execution_pb2.FINISH_REASON_TIME_BUDGET: Finish.TIME_BUDGET,
    execution_pb2.FINISH_REASON_CANCELLED: Finish.CANCELLED,
}


_NEEDED_LIMITS = ("context_tokens", "prompt_tokens", "vocabulary_size", "sequence_count")

_NAMES = (
    "worker_name", "model", "engine", "engine_version", "version", "tokenizer_fingerprint",
    "transfer_group",
)  # fmt: skip

_LISTS = {"eos_token_ids": 256, "capabilities": 256, "lora_adapters": LORA_ADAPTERS}
"""Most entries of each: a frontend answers with them, and looks through them for each request."""

MOST_S = 24 * 3600.0
"""Longest time that is believed of a worker."""

_CALLER_FIELDS = {
    "sampling.banned_sequences": "sampling.banned_words",
    "sampling": "sampling",
    "stopping": "stop",
    "guide": "guided",
    "logprobs": "output.logprobs",
    "top_logprobs": "output.top_logprobs",
    "prompt_logprobs": "output.prompt_logprobs",
    # Whatever form the caller's prompt had.
    "prompt_token_ids": "prompt",
    "output_so_far": "output_so_far",
}
"""Where the contracts name the same field differently; by the beginning of its path."""

_CALLER_CODES = {Code.CANCELLED: Code.UNAVAILABLE, Code.UNKNOWN: Code.INTERNAL}


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself."""

    name: str
    model: str
    engine: str
    """Engine and version."""
    contract_revision: int
    tokenizer_fingerprint: str
    running_limit: int
    """Sequences that its engine runs at once; at least 1."""
    waiting_limit: int
    """Requests that may wait there; 0: none, or it does not say."""
    kv_block_tokens: int
    """Tokens of a KV block; 0: it does not say."""
    kv_blocks: int
    """KV blocks; 0: it does not say."""
    kv_events: bool
    """Whether it tells what happens to them."""
    limits: ModelLimits
    description_number: int = 0
    """Another one with each change; 0: there is none."""
    phases: Phases = Phases.ANY
    transfer_group: str = ""
    """Workers with the same can fetch KV caches from each other; empty: it can't."""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a worker last reported of its load, from all frontends."""

    running_sequences: int = 0
    waiting_requests: int = 0
    kv_cache_usage: float = 0.0
    draining: bool = False
    step_s: float | None = None
    """Mean time of an engine step; None: it does not say."""
    queue_s: float | None = None
    """Time that one more request would wait for the engine; None: it does not say."""
    description_number: int = 0
    """`WorkerInfo.description_number` as it was then."""


def worker_info(message: worker_pb2.GetWorkerInfoResponse) -> WorkerInfo:
    """Reads a worker's description.

    Raises:
        ValueError: it lacks what no worker can do without, or has more than any needs.
    """
    limits = message.limits
    if not message.model:
        raise ValueError("model is empty")
    _check_sizes(message)
    for name in _NEEDED_LIMITS:
        if not getattr(limits, name):
            raise ValueError(f"limits.{name} is 0")
    return WorkerInfo(
        name=message.worker_name,
        model=message.model,
        engine=f"{message.engine} {message.engine_version}",
        contract_revision=message.contract_revision,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        running_limit=max(limits.running_sequences, 1),
        waiting_limit=limits.waiting_requests,
        kv_block_tokens=limits.kv_block_tokens,
        kv_blocks=limits.kv_blocks,
        kv_events=worker_pb2.CAPABILITY_KV_EVENTS in message.capabilities,
        limits=ModelLimits(
            context_tokens=limits.context_tokens,
            prompt_tokens=limits.prompt_tokens,
            vocabulary_size=limits.vocabulary_size,
            sequence_count=min(limits.sequence_count, SEQUENCE_COUNT_LIMIT),
            top_logprobs=min(limits.top_logprobs, TOP_LOGPROBS_LIMIT),
            eos_token_ids=tuple(message.eos_token_ids),
            abilities=frozenset(
                _ABILITIES[value] for value in message.capabilities if value in _ABILITIES
            ),
            lora_adapters=frozenset(message.lora_adapters),
        ),
        description_number=message.description_number,
        phases=_PHASES.get(message.phases, Phases.ANY),
        transfer_group=message.transfer_group,
    )


def _check_sizes(message: worker_pb2.GetWorkerInfoResponse) -> None:
    for name in _NAMES:
        if len(getattr(message, name)) > NAME_CHARACTERS:
            raise ValueError(f"{name} has more than {NAME_CHARACTERS} characters")
    for name, limit in _LISTS.items():
        if len(getattr(message, name)) > limit:
            raise ValueError(f"{name} has more than {limit} entries")
    if any(len(name) > NAME_CHARACTERS for name in message.lora_adapters):
        raise ValueError(f"lora_adapters has a name of more than {NAME_CHARACTERS} characters")


def worker_load(message: worker_pb2.WatchLoadResponse) -> WorkerLoad:
    """Reads a load report."""
    usage = message.kv_cache_usage
    return WorkerLoad(
        running_sequences=message.running_sequences,
        waiting_requests=message.waiting_requests,
        kv_cache_usage=usage if 0 <= usage <= 1 else 0.0,
        draining=message.draining,
        step_s=_seconds(message, "step"),
        queue_s=_seconds(message, "queue"),
        description_number=message.description_number,
    )


def worker_report(message: execution_pb2.Completed) -> WorkerReport:
    """Reads what a worker counted and timed."""
    cached = message.HasField("cached_prompt_tokens")
    return WorkerReport(
        cached_prompt_tokens=message.cached_prompt_tokens if cached else None,
        queue_s=_seconds(message, "queue"),
        prefill_s=_seconds(message, "prefill"),
        decode_s=_seconds(message, "decode"),
        transfer_handle=(
            message.transfer_handle
            if len(message.transfer_handle) <= TRANSFER_HANDLE_BYTES
            else b""
        ),
    )


def _seconds(message: Any, name: str) -> float | None:
    """Returns a Duration in seconds; None where it is unset, or can't be right."""
    if not message.HasField(name):
        return None
    told = getattr(message, name)
    told_s: float = told.seconds + told.nanos / 1e9
    return told_s if 0 <= told_s <= MOST_S else None


def worker_failure(status: status_pb2.Status) -> ServiceError:
    """Reads a refusal or failure; fields of the worker's request become those of the caller's.

    CANCELLED would tell a caller that it cancelled the call, and UNKNOWN nothing: they become
    UNAVAILABLE and INTERNAL. The reason of a status that has none is UNKNOWN.

    Raises:
        ValueError: the status can't be read.
    """
    if status.code not in Code.__members__.values():
        raise ValueError(f"code {status.code}")
    try:
        error = from_status(status)
    except DecodeError as fault:
        raise ValueError(f"details: {fault}") from fault
    error.code = _CALLER_CODES.get(error.code, error.code)
    if error.retry_after_s is not None:
        error.retry_after_s = min(max(error.retry_after_s, 0.0), MOST_S)
    if not error.violations:
        return error
    violations = [
        FieldViolation(_caller_field(each.field), each.description) for each in error.violations
    ]
    reason = INVALID_FIELD if error.reason == UNKNOWN else error.reason
    return InvalidRequestError(violations, reason=reason, metadata=error.metadata)


def _caller_field(field: str) -> str:
    """Returns the path from `Generation` of a field whose path from `ExecuteRequest` this is."""
    path = field.removeprefix("request.")
    for own, callers in _CALLER_FIELDS.items():
        if path.startswith(own):
            return callers + path.removeprefix(own)
    return path


def trace_id(request: execution_pb2.Request) -> str:
    """Returns the trace id of a request in hexadecimal digits; empty: it is not part of a trace."""
    parts = request.trace_context.traceparent.split("-")
    return parts[1] if len(parts) > 1 else ""


def token_logprobs(messages: Sequence[execution_pb2.TokenLogprob]) -> list[TokenLogprob]:
    """Reads log probabilities; of too many alternatives so many that it shows."""
    return [
        TokenLogprob(
            message.token_id,
            message.logprob,
            tuple(
                [
                    (each.token_id, each.logprob)
                    for each in message.alternatives[: TOP_LOGPROBS_LIMIT + 1]
                ]
            ),
        )
        for message in messages
    ]


def carries_output(info: WorkerInfo | None) -> bool:
    """Returns whether the worker knows of a request's output so far."""
    return info is not None and info.contract_revision >= OUTPUT_REVISION


async def prompt_request(prompt: Sequence[int], output_so_far: Sequence[int] = ()) -> WorkerRequest:
    """Returns a request that has the prompt's ids and output's; `fill_request` does the rest.

    Each id takes about 40 ns, so others run between slices of a long prompt.
    """
    message = execution_pb2.Request()
    await write_ids(prompt, message.prompt_token_ids)
    if output_so_far:
        await write_ids(output_so_far, message.output_so_far)
    return message


def fill_request(
    message: WorkerRequest,
    request: GenerationRequest,
    request_id: str,
    defaults: SamplingDefaults,
    *,
    banned: Sequence[Sequence[int]] = (),
    time_left_s: float | None,
    trace_context: dict[str, str],
    sequence: int | None = None,
    prefill_only: bool = False,
    transfer_handle: bytes = b"",
) -> None:
    """Fills in all but the prompt of a request for a worker, with the model's defaults.

    Args:
        message: what is filled.
        request: the caller's.
        request_id: its id.
        defaults: the model's.
        banned: ids of the caller's banned words.
        time_left_s: time that the worker has; None: no end of it.
        trace_context: headers of the trace that the request belongs to.
        sequence: the only one that is wanted; None: all of them.
        prefill_only: the prompt alone is wanted, for another worker.
        transfer_handle: what that one fetches it by; empty: it computes the prompt.
    """
    message.request_id = request_id
    message.sampling.CopyFrom(_sampling(request, defaults, banned))
    stopping, wanted = message.stopping, request.stopping
    stopping.max_tokens = wanted.max_tokens or 0
    stopping.min_tokens = wanted.min_tokens
    stopping.stop_token_ids.extend(wanted.stop_token_ids)
    stopping.ignore_eos = wanted.ignore_eos
    message.sequence_count = request.sequence_count if sequence is None else 1
    if sequence and message.sampling.HasField("seed"):
        message.sampling.seed = (message.sampling.seed + sequence) % 2**64
    message.logprobs = request.output.logprobs
    message.top_logprobs = request.output.top_logprobs
    if request.output.prompt_logprobs is not None and not message.output_so_far:
        message.prompt_logprobs = request.output.prompt_logprobs
    guide = _guide(request)
    if guide is not None:
        message.guide.CopyFrom(guide)
    message.lora_adapter = request.lora_adapter
    message.cache_salt = request.cache_salt
    message.priority = request.priority
    message.prefill_only = prefill_only
    message.transfer_handle = transfer_handle
    message.trace_context.CopyFrom(execution_pb2.TraceContext(**trace_context))
    if time_left_s is not None:
        message.time_budget.CopyFrom(duration(time_left_s))


def duration(seconds: float) -> duration_pb2.Duration:
    """Returns the seconds as a Duration, to the nanosecond."""
    whole, part = divmod(round(seconds * 1e9), 10**9)
    return duration_pb2.Duration(seconds=whole, nanos=part)


def _sampling(
    request: GenerationRequest, defaults: SamplingDefaults, banned: Sequence[Sequence[int]]
) -> execution_pb2.Sampling:
    wanted = request.sampling

    def chosen(name: str) -> float:
        value = getattr(wanted, name)
        return getattr(defaults, name) if value is None else value  # type: ignore[no-any-return]

    temperature = chosen("temperature")
    return execution_pb2.Sampling(
        temperature=temperature,
        top_p=chosen("top_p"),
        top_k=int(chosen("top_k")),
        # Greedy decoding needs none, and an engine without it would refuse the model's default.
        min_p=chosen("min_p") if temperature else wanted.min_p or 0.0,
        repetition_penalty=chosen("repetition_penalty"),
        presence_penalty=wanted.presence_penalty or 0.0,
        frequency_penalty=wanted.frequency_penalty or 0.0,
        seed=wanted.seed,
        logit_bias=[
            execution_pb2.LogitBias(token_id=token_id, bias=bias)
            for token_id, bias in wanted.logit_bias
        ],
        banned_sequences=[execution_pb2.TokenIds(ids=ids) for ids in banned],
    )


def _guide(request: GenerationRequest) -> execution_pb2.Guide | None:
    guide = request.guide
    if guide is None:
        return None
    message = execution_pb2.Guide()
    if guide.free_prefix is not None:
        message.free_prefix.begin = guide.free_prefix.begin
        message.free_prefix.end = guide.free_prefix.end
    if guide.form is Ability.GUIDED_JSON_OBJECT:
        message.json_object.SetInParent()
    elif guide.form is Ability.GUIDED_CHOICE:
        message.choice.options.extend(guide.options)
    else:
        # The contracts name these forms alike: json_schema, regex, grammar.
        setattr(message, guide.form.value.removeprefix("guided."), guide.text)
    return message
