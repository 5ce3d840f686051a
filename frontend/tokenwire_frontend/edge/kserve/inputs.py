"""The inputs of an inference request, and the generation that they ask for.

Names, datatypes and meanings are those of Triton's TensorRT-LLM backend (`ensemble` and
`tensorrt_llm_bls`) and of its vLLM backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenwire_service.errors import invalid
from tokenwire_service.wording import cut

from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.request import (
    GenerationRequest,
    Guide,
    Output,
    Sampling,
    Stopping,
    TextPrompt,
)
from tokenwire_frontend.edge.kserve import tensors
from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import ModelInferRequest
from tokenwire_frontend.edge.kserve.tensors import BOOL, BYTES, FP32, INT32, UINT64, Tensor


class Input(NamedTuple):
    """An input that requests may have."""

    datatype: str
    many: bool = False
    """Whether it is a list."""


INPUTS = {
    "text_input": Input(BYTES),
    "max_tokens": Input(INT32),
    "min_tokens": Input(INT32),
    "temperature": Input(FP32),
    "top_k": Input(INT32),
    "top_p": Input(FP32),
    "min_p": Input(FP32),
    "seed": Input(UINT64),
    "repetition_penalty": Input(FP32),
    "presence_penalty": Input(FP32),
    "frequency_penalty": Input(FP32),
    "stop_words": Input(BYTES, many=True),
    "bad_words": Input(BYTES, many=True),
    "end_id": Input(INT32),
    "num_return_sequences": Input(INT32),
    "guided_decoding_guide_type": Input(BYTES),
    "guided_decoding_guide": Input(BYTES),
    "lora_name": Input(BYTES),
    "sampling_parameters": Input(BYTES),
    "stream": Input(BOOL),
    "stop": Input(BOOL),
    "exclude_input_in_output": Input(BOOL),
    "return_finish_reason": Input(BOOL),
    "return_log_probs": Input(BOOL),
    "return_cumulative_logprob": Input(BOOL),
    "return_logprobs": Input(BOOL),
    "return_num_input_tokens": Input(BOOL),
    "return_num_output_tokens": Input(BOOL),
    "return_context_logits": Input(BOOL),
    "return_generation_logits": Input(BOOL),
    "return_perf_metrics": Input(BOOL),
    "beam_width": Input(INT32),
    "length_penalty": Input(FP32),
    "pad_id": Input(INT32),
}
"""By name."""

NEUTRAL = {
    "return_context_logits": False,
    "return_generation_logits": False,
    "return_perf_metrics": False,
    "beam_width": 1,
    "best_of": 1,
    "detokenize": True,
    "use_beam_search": False,
    "spaces_between_special_tokens": True,
}
"""What is supported at this value alone. `length_penalty` and `pad_id` change nothing without beams
and batches, whatever their values."""

_ALIASES = {
    "random_seed": "seed",
    "min_length": "min_tokens",
    "streaming": "stream",
    "exclude_input_from_output": "exclude_input_in_output",
}

_LLMAPI_PREFIX = "sampling_param_"
"""Of names of TensorRT-LLM's `llmapi` model."""

_LOGPROBS = ("return_log_probs", "return_cumulative_logprob", "return_logprobs")
"""Inputs that ask for log probabilities; a request may name their outputs instead."""

_GUIDES = {
    "json": Ability.GUIDED_JSON_OBJECT,
    "json_schema": Ability.GUIDED_JSON_SCHEMA,
    "regex": Ability.GUIDED_REGEX,
    "ebnf_grammar": Ability.GUIDED_GRAMMAR,
}
"""By `guided_decoding_guide_type`."""

_PATHS = {
    "model": "model_name",
    "prompt": "text_input",
    "sampling.banned_words": "bad_words",
    "stop.stop": "stop_words",
    "sequence_count": "num_return_sequences",
    "lora_adapter": "lora_name",
    "output.top_logprobs": "logprobs",
    "output.echo": "exclude_input_in_output",
    "time_budget": "parameters.timeout",
}
"""Inputs by the generation's fields, where the last part of a field is not the input's name."""


def canonical(tensor: Tensor) -> str:
    """Returns the name under which INPUTS has an input, if it has it."""
    name = tensor.message.name.removeprefix(_LLMAPI_PREFIX)
    if name == "stop" and tensor.message.datatype == BYTES:
        return "stop_words"
    return _ALIASES.get(name, name)


class Values:
    """What a request asks for, by the names of INPUTS and of sampling parameters."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        """As the caller has them."""

    def add(self, key: str, value: Any, name: str) -> None:
        """Adds a value.

        Args:
            key: by which it is found.
            value: of the type that belongs to the key.
            name: the caller's own path of it.

        Raises:
            InvalidRequestError: it is there already, or not supported.
        """
        if key in self._found:
            raise invalid(name, f"is given as `{self._names[key]}` too")
        if key in NEUTRAL and value != NEUTRAL[key]:
            raise invalid(name, f"is {value}; only {NEUTRAL[key]} is supported")
        self._found[key], self._names[key] = value, name

    def add_input(self, key: str, tensor: Tensor) -> None:
        """Adds an input; raises as `add`, and where the tensor is at fault."""
        spec = INPUTS.get(key)
        if spec is None:
            raise invalid(tensor.name or "inputs", "is not supported as an input")
        values = tensor.values(spec.datatype) if spec.many else tensor.one(spec.datatype)
        self.add(key, values, tensor.name)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of the key, or the default."""
        return self._found.get(key, default)

    def unsigned(self, key: str, bits: int = 32) -> int | None:
        """Returns a number that is not negative, or None.

        Raises:
            InvalidRequestError: it is negative or too large.
        """
        value = self._found.get(key)
        if value is not None and not 0 <= value < 1 << bits:
            shown = cut(str(value), 24) if value < 1 << 64 else "too large"
            raise invalid(self.name(key), f"is {shown}; 0 to {(1 << bits) - 1}")
        return None if value is None else int(value)

    def forget(self) -> None:
        """Lets go of the values; their names stay, for errors."""
        self._found.clear()

    def name(self, key: str) -> str:
        """Returns the caller's own path of the key."""
        return self._names.get(key, key)

    def name_of(self, path: str) -> str:
        """Returns the caller's own path of a generation's field."""
        field, bracket, place = path.partition("[")
        if field.startswith("guided"):
            return self._names.get("guide", "guided_decoding_guide")
        if field == "output.logprobs":
            return next((self._names[flag] for flag in _LOGPROBS if flag in self._names), "outputs")
        key = _PATHS.get(field, field.rpartition(".")[2])
        if key == "stop_token_ids" and key not in self._names:
            return self.name("end_id")
        return f"{self.name(key)}{bracket}{place}"


def generation_request(
    values: Values, *, model: str, request_id: str, streams: bool, logprobs: bool
) -> GenerationRequest:
    """Returns the generation that the values ask for; core.validation checks it.

    Args:
        values: from inputs and parameters.
        model: its name.
        request_id: the caller's, or empty.
        streams: its output comes as it is generated.
        logprobs: some output has log probabilities.

    Raises:
        InvalidRequestError: a value can't be what it is for.
    """
    if values.unsigned("num_return_sequences") == 0:
        raise invalid(values.name("num_return_sequences"), "is 0; at least 1")
    excludes = values.get("exclude_input_in_output", streams)
    if streams and not excludes:
        raise invalid(
            values.name("exclude_input_in_output"), "is false, which does not go with `stream`"
        )
    text = values.get("text_input")
    timeout_us = values.unsigned("timeout", 63)
    return GenerationRequest(
        prompt=None if text is None else TextPrompt(text),
        model=model,
        truncate_prompt_tokens=values.unsigned("truncate_prompt_tokens") or 0,
        sampling=_sampling(values),
        stopping=_stopping(values),
        output=Output(
            logprobs=logprobs,
            top_logprobs=(values.unsigned("logprobs") or 0) if logprobs else 0,
            echo=not excludes,
            skip_special_tokens=values.get("skip_special_tokens", True),
        ),
        guide=values.get("guide") or _guide(values),
        sequence_count=values.unsigned("num_return_sequences") or 1,
        lora_adapter=values.get("lora_name", ""),
        request_id=request_id,
        time_budget_s=timeout_us / 1e6 if timeout_us else None,
    )


def _sampling(values: Values) -> Sampling:
    top_k = 0 if values.get("top_k") == -1 else values.unsigned("top_k")  # -1: all, as vLLM has it
    return Sampling(
        temperature=values.get("temperature"),
        top_p=values.get("top_p"),
        top_k=top_k,
        min_p=values.get("min_p"),
        repetition_penalty=values.get("repetition_penalty"),
        presence_penalty=values.get("presence_penalty"),
        frequency_penalty=values.get("frequency_penalty"),
        seed=values.unsigned("seed", 64),
        logit_bias=values.get("logit_bias", ()),
        banned_words=_words(values, "bad_words"),
    )


def _stopping(values: Values) -> Stopping:
    end_id = values.unsigned("end_id")
    return Stopping(
        max_tokens=values.unsigned("max_tokens"),
        min_tokens=values.unsigned("min_tokens") or 0,
        stop=_words(values, "stop_words"),
        stop_token_ids=(*values.get("stop_token_ids", ()), *(() if end_id is None else (end_id,))),
        ignore_eos=values.get("ignore_eos", False),
        include_stop_in_output=values.get("include_stop_str_in_output", False),
    )


def _words(values: Values, key: str) -> tuple[str, ...]:
    """Returns the words of a list; Triton's clients send an empty one where they have none."""
    return tuple(word for word in values.get(key, ()) if word)


def _guide(values: Values) -> Guide | None:
    kind, text = values.get("guided_decoding_guide_type"), values.get("guided_decoding_guide", "")
    if kind is None:
        if text:
            raise invalid("guided_decoding_guide", "requires `guided_decoding_guide_type`")
        return None
    form = _GUIDES.get(kind)
    if form is None:
        known = ", ".join(_GUIDES)
        raise invalid("guided_decoding_guide_type", f"is {cut(kind, 24)!r}; supported: {known}")
    if form is Ability.GUIDED_JSON_OBJECT:
        return Guide(form)
    return Guide(form, text=text)


def gathered(inputs: Mapping[str, Tensor]) -> Values:
    """Returns the values of a request's inputs.

    Raises:
        InvalidRequestError: an input is unknown, or at fault.
    """
    values = Values()
    for key, tensor in inputs.items():
        values.add_input(key, tensor)
    return values


def by_key(message: ModelInferRequest) -> dict[str, Tensor]:
    """Returns a request's inputs by the names of INPUTS.

    Raises:
        InvalidRequestError: two stand for the same, or as `tensors.tensors` has it.
    """
    found: dict[str, Tensor] = {}
    for tensor in tensors.tensors(message).values():
        other = found.setdefault(canonical(tensor), tensor)
        if other is not tensor:
            raise tensor.invalid(f"is given as `{other.name}` too")
    return found
