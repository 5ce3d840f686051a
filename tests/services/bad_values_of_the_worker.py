"""Bad values of every field of tokenwire.worker.v1."""

from __future__ import annotations

from typing import Any

import grpc

from tests.services.bad_values import (
    ANY_VALUE_IS_VALID,
    BEYOND,
    CONTEXT,
    NOT_DURATIONS,
    SAMPLING,
    VOCABULARY,
    Bad,
    Cases,
    each_of,
    under,
)
from tests.services.bad_values_of_the_frontend import (
    TOO_LONG,
)

REQUEST: Cases = {
    "request_id": each_of("request_id", "x" * 129),
    "prompt_token_ids": [
        Bad({"prompt_token_ids": []}, "prompt_token_ids"),
        Bad({"prompt_token_ids": [1, VOCABULARY]}, "prompt_token_ids[1]"),
        Bad({"prompt_token_ids": [BEYOND]}, "prompt_token_ids[0]"),
        Bad({"prompt_token_ids": [5] * 5000}, "prompt_token_ids", says=TOO_LONG),
        Bad({"prompt_token_ids": [5] * CONTEXT}, "prompt_token_ids"),
    ],
    "output_so_far": [
        Bad({"output_so_far": [5, VOCABULARY]}, "output_so_far[1]"),
        Bad({"output_so_far": [5] * CONTEXT}, "output_so_far", says=(str(CONTEXT),)),
        Bad({"output_so_far": [5, 9], "stopping": {"stop_token_ids": [5]}}, "output_so_far[0]"),
        Bad({"output_so_far": [5], "sequence_count": 2}, "sequence_count"),
        Bad(
            {"output_so_far": [5], "sampling": {"seed": 1}},
            "sampling.seed",
            code=grpc.StatusCode.FAILED_PRECONDITION,
            reason="OUTPUT_NOT_CARRIED",
        ),
    ],
    # This engine hands no prompt over and fetches none.
    "prefill_only": each_of("prefill_only", True),
    "transfer_handle": each_of("transfer_handle", b"x"),
    **SAMPLING,
    "sampling.logit_bias": [
        Bad({"sampling": {"logit_bias": [{"token_id": 5}]}}, "sampling.logit_bias")
    ],
    # This engine biases and bans nothing, so whatever is in them is refused by their name.
    "sampling.logit_bias.token_id": ANY_VALUE_IS_VALID,
    "sampling.logit_bias.bias": ANY_VALUE_IS_VALID,
    "sampling.banned_sequences": [
        Bad({"sampling": {"banned_sequences": [{"ids": [5]}]}}, "sampling.banned_sequences")
    ],
    "sampling.banned_sequences.ids": ANY_VALUE_IS_VALID,
    "prompt_logprobs": each_of("prompt_logprobs", 0, 1),
    "stopping": ANY_VALUE_IS_VALID,
    # More than the context leaves is what it leaves.
    "stopping.max_tokens": ANY_VALUE_IS_VALID,
    "stopping.min_tokens": [
        Bad({"stopping": {"max_tokens": 3, "min_tokens": 4}}, "stopping.min_tokens"),
        *each_of("stopping.min_tokens", CONTEXT, BEYOND),
    ],
    "stopping.stop_token_ids": [
        *each_of("stopping.stop_token_ids", [1] * 257),
        Bad({"stopping": {"stop_token_ids": [1, VOCABULARY]}}, "stopping.stop_token_ids[1]"),
    ],
    "stopping.ignore_eos": [
        Bad({"guide": {"regex": "a"}, "stopping": {"ignore_eos": True}}, "stopping.ignore_eos")
    ],
    "sequence_count": each_of("sequence_count", 1000, BEYOND),
    "logprobs": ANY_VALUE_IS_VALID,
    "top_logprobs": [
        Bad({"top_logprobs": count, "logprobs": True}, "top_logprobs") for count in (1, BEYOND)
    ],
    "guide": [Bad({"guide": {}}, "guide")],
    "guide.json_schema": each_of(
        "guide.json_schema", "", "{", "null", '{"type": "nothing"}', '{"not": {}}', '{"a":' * 5000
    ),
    "guide.json_object": ANY_VALUE_IS_VALID,
    "guide.free_prefix": [
        Bad({"guide": {"regex": "a", "free_prefix": {}}}, "guide.free_prefix.end")
    ],
    "guide.free_prefix.begin": [
        Bad(
            {"guide": {"regex": "a", "free_prefix": {"begin": "x" * 65, "end": "y"}}},
            "guide.free_prefix.begin",
        )
    ],
    "guide.free_prefix.end": [
        Bad({"guide": {"regex": "a", "free_prefix": {"end": "x" * 65}}}, "guide.free_prefix.end")
    ],
    "guide.regex": each_of("guide.regex", "", "(", "a{2,1}", "(" * 5000, "x" * 300_000),
    "guide.grammar": each_of("guide.grammar", "", "root", 'start ::= "a"'),
    "guide.choice": [Bad({"guide": {"choice": {}}}, "guide.choice.options")],
    "guide.choice.options": [
        Bad({"guide": {"choice": {"options": ["a", ""]}}}, "guide.choice.options[1]")
    ],
    "lora_adapter": each_of("lora_adapter", "pirate"),
    "cache_salt": each_of("cache_salt", "pepper"),
    "priority": each_of("priority", 101, -101, 2**31 - 1, -(2**31)),
    # Nothing is left of a budget of 0 or less: the generation ends at once.
    "time_budget": each_of("time_budget", *NOT_DURATIONS),
    "trace_context": ANY_VALUE_IS_VALID,
    "trace_context.traceparent": ANY_VALUE_IS_VALID,
    "trace_context.tracestate": ANY_VALUE_IS_VALID,
}

REQUEST_GOOD = {"prompt_token_ids": [5], "stopping": {"max_tokens": 2}}


def request_with(values: dict[str, Any]) -> dict[str, Any]:
    return {"request": {**REQUEST_GOOD, **values}}


EXECUTE: Cases = {
    "request": [Bad({}, "request")],
    **under(REQUEST, "request.", request_with),
}
