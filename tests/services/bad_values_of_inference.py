"""Bad values of the Open Inference Protocol's requests, and how they are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from tests.services.bad_values import ANY_VALUE_IS_VALID, NOT_FOUND, Bad, Cases, each_of

_CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
}


def tensor(name: str, datatype: str, *values: Any, shape: Sequence[int] | None = None) -> Any:
    """Returns an input with its elements in the field of its datatype."""
    if datatype == "BYTES":
        values = tuple(each.encode() if isinstance(each, str) else each for each in values)
    shape = [len(values)] if shape is None else shape
    contents = {_CONTENTS[datatype]: values} if datatype in _CONTENTS else {}
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


TEXT = tensor("text_input", "BYTES", "Hello")
FEW = tensor("max_tokens", "INT32", 4)


def asking(*tensors: Any, **fields: Any) -> dict[str, Any]:
    """Returns a request that is good but for what is given."""
    return {"inputs": [TEXT, FEW, *tensors], **fields}


def refused_inputs(*tensors: Any, says: str = "", field: str | None = None) -> list[Bad]:
    """Returns a case for each input, of which a refusal has its name."""
    return [
        Bad(asking(each), field or each["name"], says=(says,) if says else ()) for each in tensors
    ]


def parameters(**values: Any) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: {kinds[type(value)]: value} for name, value in values.items()}


def refused_json(path: str, value: Any) -> Bad:
    """Returns a case of sampling parameters, as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    field = f"sampling_parameters{path}"
    return Bad(asking(tensor("sampling_parameters", "BYTES", text)), field)


INPUTS = [
    Bad({}, "text_input"),
    Bad({"inputs": [TEXT, TEXT]}, "inputs[1].name"),
    Bad({"inputs": [{"name": "text_input"}]}, "text_input"),
    Bad(asking(*[tensor(f"x{n}", "BYTES") for n in range(127)]), "inputs"),
    *refused_inputs(
        tensor("INPUT_0", "BYTES", "a"),
        tensor("image_input", "FP32", 1.0),
        tensor("input_ids", "INT32", 5, 6),
        says="not supported",
    ),
    *refused_inputs(
        tensor("top_k", "FP32", 1.0),
        tensor("temperature", "INT32", 1),
        tensor("stream", "BYTES", "true"),
        tensor("seed", "BYTES", "1"),
        tensor("stop_words", "INT32", 1),
        tensor("stop_words", "no such", 1),
        says="datatype",
    ),
    *refused_inputs(
        tensor("top_k", "INT32", 1, 2),
        tensor("top_k", "INT32"),
        tensor("top_k", "INT32", 1, shape=[1, 1, 1]),
        tensor("top_k", "INT32", 1, shape=[-1]),
        tensor("stop_words", "BYTES", "a", "b", shape=[2, 1]),
        says="shape",
    ),
    *refused_inputs(
        tensor("top_k", "INT32", 1, shape=[2]),
        tensor("stop_words", "BYTES", "a", shape=[2**40]),
        tensor("stop_words", "BYTES", *["a"] * 1025),
        says="elements",
    ),
    *refused_inputs(
        tensor("stop_words", "BYTES", b"\xff"),
        tensor("lora_name", "BYTES", b"ab\xc3"),
        says="UTF-8",
    ),
    *refused_inputs(
        tensor("temperature", "FP32", -1.0),
        tensor("temperature", "FP32", float("nan")),
        tensor("top_p", "FP32", 0.0),
        tensor("top_k", "INT32", -2),
        tensor("min_tokens", "INT32", -1),
        tensor("min_length", "INT32", 5),
        tensor("repetition_penalty", "FP32", 0.0),
        tensor("presence_penalty", "FP32", 3.0),
        tensor("end_id", "INT32", -1),
        tensor("end_id", "INT32", 4096),
        tensor("num_return_sequences", "INT32", 0),
        tensor("num_return_sequences", "INT32", 33),
        tensor("beam_width", "INT32", 2),
        tensor("return_context_logits", "BOOL", True),
        tensor("guided_decoding_guide", "BYTES", "a"),
        tensor("guided_decoding_guide_type", "BYTES", "structural_tag"),
        tensor("lora_name", "BYTES", "nobody"),
        tensor("stream", "BOOL", True),
        tensor("stop", "BOOL", True),
    ),
    *refused_inputs(tensor("bad_words", "BYTES", *["a"] * 65)),
    *refused_inputs(tensor("stop_words", "BYTES", *["a"] * 17)),
    *refused_inputs(tensor("stop_words", "BYTES", "a", "x" * 1025), field="stop_words[1]"),
    *refused_inputs(tensor("max_length", "INT32", 1)),
    Bad(asking(tensor("seed", "UINT64", 1), tensor("random_seed", "UINT64", 1)), "random_seed"),
    Bad(
        {"inputs": [TEXT, tensor("max_tokens", "INT32", 5000)]},
        "max_tokens",
        reason="PROMPT_TOO_LONG",
    ),
    Bad({"inputs": [TEXT, tensor("max_tokens", "INT32", 0)]}, "max_tokens"),
    Bad({"inputs": [TEXT, tensor("max_tokens", "INT64", -1)]}, "max_tokens"),
    Bad({"inputs": [{**TEXT, "parameters": parameters(shared_memory_region="a")}]}, "text_input"),
    refused_json("", "{"),
    refused_json("", "[1]"),
    refused_json("", "[" * 50_000),
    refused_json("", " " * 300_000),
    refused_json(".nope", {"nope": 1}),
    refused_json(".prompt_logprobs", {"prompt_logprobs": 1}),
    refused_json(".max_tokens", {"max_tokens": 4}),
    refused_json(".top_k", {"top_k": 1.5}),
    refused_json(".top_k", {"top_k": True}),
    refused_json(".temperature", {"temperature": "warm"}),
    refused_json(".temperature", {"temperature": -1}),
    refused_json(".seed", {"seed": 10**30}),
    refused_json(".n", {"n": 99}),
    refused_json(".best_of", {"best_of": 2}),
    refused_json(".ignore_eos", {"ignore_eos": "no"}),
    refused_json(".stop[1]", {"stop": ["a", 1]}),
    refused_json(".stop[0]", '{"stop": "\\ud800"}'),
    refused_json(".stop_token_ids[0]", {"stop_token_ids": [4096]}),
    refused_json(".stop_token_ids[1]", {"stop_token_ids": [1, -1]}),
    refused_json(".logit_bias", {"logit_bias": [1]}),
    refused_json(".logit_bias.5", {"logit_bias": {"5": "much"}}),
    refused_json(".lora_name", {"lora_name": "nobody"}),
    refused_json(".structured_outputs", {"structured_outputs": {"regex": "a", "json": {}}}),
    refused_json(".structured_outputs", {"structured_outputs": {"regex": "("}}),
    refused_json(".structured_outputs.backend", {"structured_outputs": {"backend": "a"}}),
    refused_json(".guided_decoding.choice[0]", {"guided_decoding": {"choice": [1]}}),
]


def _raw(*contents: bytes, **changes: Any) -> dict[str, Any]:
    """Returns a request whose only input is raw."""
    given = {"name": "text_input", "datatype": "BYTES", "shape": [1], **changes}
    return {"inputs": [given], "raw_input_contents": contents}


_HELLO = struct.pack("<I", 5) + b"Hello"

RAW = [
    Bad(_raw(_HELLO, _HELLO), "raw_input_contents"),
    Bad({"raw_input_contents": [_HELLO]}, "raw_input_contents"),
    Bad(_raw(_HELLO, contents={"bytes_contents": [b"Hello"]}), "text_input"),
    *(
        Bad(_raw(content), "text_input")
        for content in (b"", b"\x05", _HELLO[:-1], _HELLO * 2, b"\xff\xff\xff\xff")
    ),
    Bad(_raw(b"\x01\x00", name="top_k", datatype="INT32"), "top_k", says=("2 bytes",)),
]

_MODEL = [
    Bad({"name": "nope"}, None, NOT_FOUND, "UNKNOWN_MODEL", ("nope", "demo")),
]

_INFER: Cases = {
    "model_name": [Bad(asking(model_name="nope"), None, NOT_FOUND, "UNKNOWN_MODEL")],
    "model_version": [Bad(asking(model_version="2"), "model_version")],
    "id": ANY_VALUE_IS_VALID,
    "parameters": [
        *(
            Bad(asking(parameters=parameters(**{name: value})), f"parameters.{name}")
            for name, value in {
                "nope": 1,
                "priority": 2,
                "sequence_id": 7,
                "timeout": -5,
                "triton_enable_empty_final_response": "yes",
                "temperature": "hot",
                "max_tokens": 5,
            }.items()
        ),
        Bad(asking(parameters=parameters(**{f"p{n}": 1 for n in range(129)})), "parameters"),
    ],
    "inputs": INPUTS,
    "outputs": [
        Bad(asking(outputs=[{"name": "context_logits"}]), "outputs[0].name"),
        Bad(asking(outputs=[{}] * 129), "outputs"),
        Bad(
            asking(outputs=[{"name": "text_output", "parameters": parameters(classification=1)}]),
            "outputs[0].parameters.classification",
        ),
    ],
    "raw_input_contents": RAW,
}

INFERENCE: dict[str, Cases] = {
    "ServerLive": {},
    "ServerReady": {},
    "ServerMetadata": {},
    "ModelReady": {"name": ANY_VALUE_IS_VALID, "version": each_of("version", "2")},
    "ModelMetadata": {"name": _MODEL, "version": each_of("version", "2")},
    "ModelConfig": {"name": _MODEL, "version": each_of("version", "0")},
    "RepositoryIndex": dict.fromkeys(("repository_name", "ready"), ANY_VALUE_IS_VALID),
    "ModelInfer": _INFER,
    # Of the same message as ModelInfer; its refusals have no details, and a test of their own.
    "ModelStreamInfer": dict.fromkeys(_INFER, ANY_VALUE_IS_VALID),
}
