"""The outputs of an inference, and responses from what is new of a generation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tokenwire_service.errors import invalid
from tokenwire_service.wire import NumberFields, bytes_tag
from tokenwire_service.wording import cut

from tokenwire_frontend.core.events import Content, News
from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.edge.kserve.inputs import Values
from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from tokenwire_frontend.edge.kserve.tensors import BYTES, ENTRIES_LIMIT, FP32, UINT32, raw

MODEL_VERSION = "1"
"""Of every model: Tokenwire has no versions of a model."""

FINAL = "triton_final_response"
"""Parameter of each response on a stream: whether it is its request's last."""


class OutputTensor(NamedTuple):
    """An output that responses may have."""

    datatype: str
    shape: Sequence[int]
    """-1 stands for any size."""


OUTPUTS = {
    "text_output": OutputTensor(BYTES, [-1]),
    "finish_reason": OutputTensor(BYTES, [-1]),
    "cum_log_probs": OutputTensor(FP32, [1, -1]),
    "output_log_probs": OutputTensor(FP32, [1, -1, -1]),
    "cumulative_logprob": OutputTensor(FP32, [-1]),
    "logprobs": OutputTensor(BYTES, [-1]),
    "num_input_tokens": OutputTensor(UINT32, [1]),
    "num_output_tokens": OutputTensor(UINT32, [-1]),
}
"""By name; all but `num_input_tokens` have a place for each sequence."""

_FLAGS = {
    "return_finish_reason": ("finish_reason",),
    "return_log_probs": ("cum_log_probs", "output_log_probs"),
    "return_cumulative_logprob": ("cumulative_logprob",),
    "return_logprobs": ("logprobs",),
    "return_num_input_tokens": ("num_input_tokens",),
    "return_num_output_tokens": ("num_output_tokens",),
}
"""Outputs by the inputs that ask for them."""

LOGPROBS = frozenset({"cum_log_probs", "output_log_probs", "cumulative_logprob", "logprobs"})
"""Outputs made of log probabilities."""

RUNNING = b"None"
"""`finish_reason` of a sequence that goes on, as the vLLM backend has it."""


def wanted(message: ModelInferRequest, values: Values) -> list[str]:
    """Returns the outputs that a request wants: those that it names, or else those of its inputs.

    Raises:
        InvalidRequestError: an output is unknown, or wanted in a form that is not supported.
    """
    if not message.outputs:
        asked = [name for flag, names in _FLAGS.items() if values.get(flag) for name in names]
        return ["text_output", *asked]
    if len(message.outputs) > ENTRIES_LIMIT:
        raise invalid("outputs", f"has {len(message.outputs)}; at most {ENTRIES_LIMIT}")
    for place, each in enumerate(message.outputs):
        if each.name not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise invalid(
                f"outputs[{place}].name", f"{cut(each.name, 64)!r} is not supported; known: {known}"
            )
        for name in each.parameters:
            if name != "binary_data":
                raise invalid(f"outputs[{place}].parameters.{cut(name, 64)}", "is not supported")
    return list(dict.fromkeys(each.name for each in message.outputs))


def content(names: Collection[str]) -> Content:
    """Returns what deltas must have for these outputs."""
    return Content.TEXT_AND_IDS if "num_output_tokens" in names else Content.TEXT


class Responses:
    """Makes the responses of one request.

    Args:
        model: the model's name.
        request_id: the request's, which comes back.
        outputs: names of those that it wants.
        sequences: how many there are.
        prompt_tokens: of the prompt.
    """

    def __init__(
        self,
        model: str,
        request_id: str,
        outputs: Sequence[str],
        sequences: int,
        prompt_tokens: int,
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._outputs = outputs
        self._prompt_tokens = prompt_tokens
        self._sums = [0.0] * sequences
        """Log probabilities of each sequence until now."""
        self._open = set(range(sequences))
        """Sequences that have not ended."""
        self._held: list[Delta] = []
        self._head = b""
        if list(outputs) == ["text_output"] and sequences == 1:
            response = self._response([], final=False)
            del response.raw_output_contents[:]
            self._head = response.SerializeToString()

    @property
    def plain(self) -> bool:
        """Whether a response may be made of text alone."""
        return bool(self._head)

    def text(self, text: bytes | bytearray) -> bytes:
        """Returns a ModelStreamInferResponse with text, where `plain`; the hot path."""
        size = len(text)
        told = _TEXT_SIZES[size + 4]
        head = self._head
        return b"".join(
            (
                _RESPONSE_SIZES[len(head) + len(told) + 4 + size],
                head,
                told,
                size.to_bytes(4, "little"),
                text,
            )
        )

    def streamed(self, news: News) -> ModelStreamInferResponse | None:
        """Returns what a stream says of the news, if anything.

        The ends of the last sequences are held until the generation's own, so that the response
        that is the last one says so.
        """
        final = news.completion is not None
        self._open.difference_update(each.sequence for each in news.deltas if each.end)
        self._held += news.deltas
        if not final and (not self._held or not self._open):
            return None
        deltas, self._held = self._held, []
        return ModelStreamInferResponse(infer_response=self._response(deltas, final=final))

    def whole(self, news: News) -> ModelInferResponse:
        """Returns the only response of a generation that has ended."""
        response = self._response(news.deltas, final=True)
        del response.parameters[FINAL]
        return response

    def _response(self, deltas: Sequence[Delta], *, final: bool) -> ModelInferResponse:
        response = ModelInferResponse(
            model_name=self._model, model_version=MODEL_VERSION, id=self._request_id
        )
        response.parameters[FINAL].bool_param = final
        by_sequence: list[list[Delta]] = [[] for _ in self._sums]
        for each in deltas:
            by_sequence[each.sequence].append(each)
        for index, parts in enumerate(by_sequence):
            self._sums[index] += math.fsum(value.logprob for value in _logprobs(parts))
        for name in self._outputs:
            datatype, shape = OUTPUTS[name].datatype, [len(by_sequence)]
            values: list[Any]
            if name == "num_input_tokens":
                values, shape = [self._prompt_tokens], [1]
            elif name in ("cum_log_probs", "cumulative_logprob"):
                values = self._sums
                shape = [1, *shape] if name == "cum_log_probs" else shape
            elif name == "output_log_probs":
                values, shape = _padded(by_sequence)
            else:
                values = [_OF_SEQUENCE[name](parts) for parts in by_sequence]
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw(datatype, values))
        return response


def error(message: str, model: str, request_id: str) -> ModelStreamInferResponse:
    """Returns what a stream says of a request that has failed; its id comes back too."""
    told = ModelStreamInferResponse(error_message=message)
    told.infer_response.model_name, told.infer_response.id = model, request_id
    told.infer_response.parameters[FINAL].bool_param = True
    return told


def _text(parts: Sequence[Delta]) -> bytes:
    return "".join(part.text for part in parts).encode()


def _finish_reason(parts: Sequence[Delta]) -> bytes:
    ends = [part.end for part in parts if part.end is not None]
    return ends[0].finish.value.encode() if ends else RUNNING


def _token_count(parts: Sequence[Delta]) -> int:
    return sum(len(part.token_ids) for part in parts)


def _logprobs(parts: Sequence[Delta]) -> list[TokenLogprob]:
    return [value for part in parts for value in part.logprobs]


def _padded(by_sequence: Sequence[Sequence[Delta]]) -> tuple[list[float], list[int]]:
    """Returns log probabilities and their shape: shorter sequences are filled up with 0."""
    rows = [[value.logprob for value in _logprobs(parts)] for parts in by_sequence]
    longest = max(map(len, rows))
    padded = [value for row in rows for value in [*row, *[0.0] * (longest - len(row))]]
    return padded, [1, len(rows), longest]


def _logprobs_json(parts: Sequence[Delta]) -> bytes:
    """Returns a list of objects, one for each token: what is known of it and its alternatives."""
    told = []
    for part in parts:
        for value in part.logprobs:
            likely = dict(value.alternatives)
            likely.setdefault(value.token_id, value.logprob)
            ranks = {token_id: rank for rank, (token_id, _) in enumerate(value.alternatives, 1)}
            told.append(
                {
                    token_id: {
                        "logprob": logprob,
                        "rank": ranks.get(token_id),
                        "decoded_token": part.token_bytes[token_id].decode(errors="replace"),
                    }
                    for token_id, logprob in likely.items()
                }
            )
    return json.dumps(told).encode()


_OF_SEQUENCE: dict[str, Callable[[Sequence[Delta]], Any]] = {
    "text_output": _text,
    "finish_reason": _finish_reason,
    "logprobs": _logprobs_json,
    "num_output_tokens": _token_count,
}

_TEXT_SIZES = NumberFields(bytes_tag(ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER))
_RESPONSE_SIZES = NumberFields(bytes_tag(ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER))
