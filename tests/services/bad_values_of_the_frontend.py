"""Bad values of every field of tokenwire.frontend.v1."""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.protobuf import duration_pb2
from tokenwire.frontend.v1 import (
    options_pb2,
    prompt_pb2,
)

from tests.services.bad_values import (
    ANY_VALUE_IS_VALID,
    BEYOND,
    CONTEXT,
    NOT_DURATIONS,
    SAMPLING,
    UNKNOWN_MODEL,
    VOCABULARY,
    Bad,
    Cases,
    each_of,
    under,
)

TEXT = options_pb2.STREAM_CONTENT_TEXT

USER = {"role": prompt_pb2.ROLE_USER, "content": "hi"}
CALL = {"role": prompt_pb2.ROLE_ASSISTANT, "tool_calls": [{"name": "f", "arguments": "{}"}]}


NOT_OBJECTS = (
    "{",
    "[]",
    "null",
    "1",
    '"text"',
    "{'a': 1}",
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1, "a": 2}',
    '{"a": {"b": [{"c": 1, "c": 1}]}}',
    "[" * 100_000,
)
"""JSON texts that are malformed or not an object."""


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {**USER, **fields}]}


def parts(*content_parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": prompt_pb2.ROLE_USER, "content_parts": content_parts}]}


def chat_with(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], **fields}


def in_conversation(**fields: Any) -> dict[str, Any]:
    return {"prompt": {"chat": {"messages": [USER]}}, "conversation": {"id": "c"}, **fields}


CHAT: Cases = {
    "messages": [Bad({}, "messages")],
    "messages.role": [
        Bad(message(role=role), "messages[1].role")
        for role in (prompt_pb2.ROLE_UNSPECIFIED, 77, -1)
    ],
    "messages.content": ANY_VALUE_IS_VALID,
    "messages.content_parts": [
        Bad(message(content_parts=[{"text": "a"}]), "messages[1].content_parts"),
        Bad(parts({"text": "a"}, {}), "messages[0].content_parts[1]"),
        Bad(parts(*[{"text": "a"}] * 4097), "messages"),
    ],
    "messages.content_parts.text": ANY_VALUE_IS_VALID,
    "messages.content_parts.image_url": [
        Bad(parts({"image_url": "data:,"}), "messages[0].content_parts[0].image_url")
    ],
    "messages.content_parts.audio_url": [
        Bad(parts({"audio_url": "data:,"}), "messages[0].content_parts[0].audio_url")
    ],
    "messages.omit_content": [Bad(message(omit_content=True), "messages[1].omit_content")],
    "messages.name": ANY_VALUE_IS_VALID,
    "messages.tool_calls": ANY_VALUE_IS_VALID,
    "messages.tool_calls.id": ANY_VALUE_IS_VALID,
    "messages.tool_calls.name": [
        Bad(message(tool_calls=[{"name": "f"}, {}]), "messages[1].tool_calls[1].name")
    ],
    "messages.tool_calls.arguments": [
        Bad(
            message(tool_calls=[{"name": "f", "arguments": text}]),
            "messages[1].tool_calls[0].arguments",
        )
        for text in NOT_OBJECTS
    ],
    "messages.tool_call_id": ANY_VALUE_IS_VALID,
    "messages.reasoning": ANY_VALUE_IS_VALID,
    "tools": ANY_VALUE_IS_VALID,
    "tools.name": [Bad({"messages": [USER], "tools": [{"description": "d"}]}, "tools[0].name")],
    "tools.description": ANY_VALUE_IS_VALID,
    "tools.parameters": [
        Bad(
            {"messages": [USER], "tools": [{"name": "f", "parameters": text}]},
            "tools[0].parameters",
        )
        for text in NOT_OBJECTS
    ],
    "tools.strict": ANY_VALUE_IS_VALID,
    "tool_choice": ANY_VALUE_IS_VALID,
    "tool_choice.mode": [Bad(chat_with(tool_choice={"mode": 3}), "tool_choice")],
    "tool_choice.name": [Bad(chat_with(tool_choice={"name": "f"}), "tool_choice")],
    "parallel_tool_calls": ANY_VALUE_IS_VALID,
    "escape_control_tokens": [
        Bad(
            {
                "messages": [{**USER, "content": "\U000f0041\U00100041"}],
                "escape_control_tokens": True,
            },
            "escape_control_tokens",
        )
    ],
    "documents": ANY_VALUE_IS_VALID,
    "documents.title": ANY_VALUE_IS_VALID,
    "documents.text": ANY_VALUE_IS_VALID,
    "add_generation_prompt": [
        Bad(
            {"messages": [USER], "add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt",
        )
    ],
    # With add_generation_prompt: above.
    "continue_final_message": ANY_VALUE_IS_VALID,
    "template_arguments": [
        *(
            Bad({"messages": [USER], "template_arguments": text}, "template_arguments")
            for text in NOT_OBJECTS
        ),
        *(
            Bad(
                {"messages": [USER], "template_arguments": json.dumps({name: "x"})},
                "template_arguments",
                says=(name,),
            )
            for name in ("messages", "tools", "documents", "add_generation_prompt")
        ),
    ],
}

TOO_LONG = ("5000", str(CONTEXT - 1))

GENERATION: Cases = {
    "model": [UNKNOWN_MODEL],
    "prompt": [
        Bad({"prompt": None}, "prompt"),
        Bad({"prompt": {}}, "prompt"),
        Bad(
            {"prompt": {"token_ids": {"ids": [5] * 5000}}},
            "prompt",
            reason="PROMPT_TOO_LONG",
            says=TOO_LONG,
        ),
        Bad(
            {"prompt": {"text": " a" * 5000}}, "prompt", reason="PROMPT_TOO_LONG", says=TOO_LONG[1:]
        ),
        Bad(
            {"prompt": {"chat": {"messages": [{**USER, "content": " a" * 5000}]}}},
            "prompt",
            reason="PROMPT_TOO_LONG",
            says=TOO_LONG[1:],
        ),
        Bad(
            {"prompt": {"token_ids": {"ids": [5] * CONTEXT}}},
            "prompt",
            reason="PROMPT_TOO_LONG",
            says=(str(CONTEXT), str(CONTEXT - 1)),
        ),
    ],
    "prompt.text": each_of("prompt.text", ""),
    "prompt.token_ids": [Bad({"prompt": {"token_ids": {}}}, "prompt.token_ids.ids")],
    "prompt.token_ids.ids": [
        Bad({"prompt": {"token_ids": {"ids": ids}}}, f"prompt.token_ids.ids[{place}]", says=says)
        for ids, place, says in [
            ([VOCABULARY], 0, (str(VOCABULARY),)),
            ([1, 2, BEYOND, 3], 2, (str(BEYOND), str(VOCABULARY))),
        ]
    ],
    "prompt.chat": [Bad({"prompt": {"chat": {}}}, "prompt.chat.messages")],
    **under(CHAT, "prompt.chat.", lambda chat: {"prompt": {"chat": chat}}),
    "prompt.truncate_prompt_tokens": [
        Bad(
            {"prompt": {"text": "a", "truncate_prompt_tokens": most}},
            "prompt.truncate_prompt_tokens",
            says=(str(CONTEXT - 1),),
        )
        for most in (CONTEXT, BEYOND)
    ],
    "prompt.add_special_tokens": [
        Bad(
            {"prompt": {"token_ids": {"ids": [5]}, "add_special_tokens": value}},
            "prompt.add_special_tokens",
        )
        for value in (True, False)
    ],
    **SAMPLING,
    "stop": ANY_VALUE_IS_VALID,
    "stop.max_tokens": [
        Bad({"stop": {"max_tokens": 0}}, "stop.max_tokens"),
        *(
            Bad(
                {"stop": {"max_tokens": count}},
                "stop.max_tokens",
                reason="PROMPT_TOO_LONG",
                says=(str(count), str(CONTEXT)),
            )
            for count in (CONTEXT, BEYOND)
        ),
    ],
    "stop.min_tokens": [
        Bad({"stop": {"max_tokens": 3, "min_tokens": 4}}, "stop.min_tokens", says=("4", "3")),
        Bad({"stop": {"min_tokens": BEYOND}}, "stop.min_tokens", reason="PROMPT_TOO_LONG"),
    ],
    "stop.stop": [
        *each_of("stop.stop", ["x"] * 17),
        Bad({"stop": {"stop": ["x", ""]}}, "stop.stop[1]"),
        Bad({"stop": {"stop": ["x" * 1025]}}, "stop.stop[0]", says=("1025", "1024")),
    ],
    "stop.stop_token_ids": [
        *each_of("stop.stop_token_ids", [1] * 65),
        Bad({"stop": {"stop_token_ids": [1, VOCABULARY]}}, "stop.stop_token_ids[1]"),
        Bad({"stop": {"stop_token_ids": [BEYOND]}}, "stop.stop_token_ids[0]"),
    ],
    "stop.ignore_eos": ANY_VALUE_IS_VALID,
    "stop.include_stop_in_output": ANY_VALUE_IS_VALID,
    "sampling.logit_bias": [
        Bad({"sampling": {"logit_bias": [{"token_id": 5}]}}, "sampling.logit_bias")
    ],
    # This engine biases and bans nothing, so whatever is in them is refused by their name.
    "sampling.logit_bias.token_id": ANY_VALUE_IS_VALID,
    "sampling.logit_bias.bias": ANY_VALUE_IS_VALID,
    "sampling.banned_words": each_of("sampling.banned_words", ["x"]),
    "output": ANY_VALUE_IS_VALID,
    "output.parse": ANY_VALUE_IS_VALID,
    "output.prompt_logprobs": each_of("output.prompt_logprobs", 0, 1),
    "output.stop_in_reasoning": ANY_VALUE_IS_VALID,
    "output.logprobs": ANY_VALUE_IS_VALID,
    # This engine has no alternatives, so any number is refused by name.
    "output.top_logprobs": [
        Bad({"output": {"top_logprobs": count, "logprobs": logprobs}}, "output.top_logprobs")
        for count in (1, 21, BEYOND)
        for logprobs in (True, False)
    ],
    "output.echo": ANY_VALUE_IS_VALID,
    "output.skip_special_tokens": ANY_VALUE_IS_VALID,
    "guided": [Bad({"guided": {}}, "guided")],
    "guided.json_schema": each_of(
        "guided.json_schema",
        *("", " ", "{", "null", "[]", '{"type": "nothing"}', '{"$ref": "#/nowhere"}'),
        '{"a":' * 5000,
        '{"enum": ["' + "x" * 300_000 + '"]}',
    ),
    "guided.json_object": ANY_VALUE_IS_VALID,
    "guided.regex": each_of("guided.regex", "", "(", "a{2,1}", "[z-a]", "(" * 5000, "x" * 300_000),
    "guided.grammar": each_of(
        "guided.grammar",
        *("", "root", 'start ::= "a"', "root ::= undefined", 'root ::= "a' + "x" * 300_000),
    ),
    "guided.choice": [Bad({"guided": {"choice": {}}}, "guided.choice.options")],
    "guided.choice.options": [
        Bad({"guided": {"choice": {"options": ["a", ""]}}}, "guided.choice.options[1]"),
        *each_of("guided.choice.options", ["a"] * 257),
    ],
    "sequence_count": each_of("sequence_count", 33, BEYOND),
    "lora_adapter": each_of("lora_adapter", "pirate"),
    "cache_salt": [Bad({"cache_salt": salt}, "cache_salt") for salt in ("pepper", "s" * 257)],
    "priority": each_of("priority", 101, -101, 2**31 - 1, -(2**31)),
    "request_id": each_of("request_id", "a b", "x" * 129, "é", "a/b", "a\n", "x" * 100_000),
    "time_budget": each_of(
        "time_budget", duration_pb2.Duration(), duration_pb2.Duration(seconds=-1), *NOT_DURATIONS
    ),
    # Where it is supported: a test of its own.
    "output_so_far": [
        Bad({"output_so_far": [{}]}, "output_so_far", says=("not supported by Generate",)),
        Bad({"output_so_far": [{}], "idempotency_key": "k"}, "output_so_far"),
    ],
    "output_so_far.token_ids": ANY_VALUE_IS_VALID,
    "output_so_far.ended": ANY_VALUE_IS_VALID,
    "on_disconnect": each_of("on_disconnect", 3, -1, 2**31 - 1),
    "detach_ttl": [
        # It says for how long something is kept that is not kept.
        Bad({"detach_ttl": duration_pb2.Duration(seconds=5)}, "detach_ttl"),
        *(
            Bad({"detach_ttl": value, "idempotency_key": "k"}, "detach_ttl")
            for value in (
                duration_pb2.Duration(),
                duration_pb2.Duration(seconds=-1),
                *NOT_DURATIONS,
            )
        ),
    ],
    "idempotency_key": each_of("idempotency_key", "a b", "x" * 129, "é", "a\n", "x" * 100_000),
    "conversation": [
        Bad({"conversation": {"id": "c"}}, "conversation"),
        Bad(in_conversation(sequence_count=2), "conversation"),
    ],
    "conversation.id": [
        Bad(in_conversation(conversation={"id": name}), "conversation.id")
        for name in ("", "a b", "é", "a/b", "a\n", "x" * 129, "x" * 100_000)
    ],
    "conversation.messages": [
        Bad(
            in_conversation(conversation={"id": "never-begun", "messages": count}),
            None,
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONVERSATION_GONE",
            ("never-begun",),
        )
        for count in (1, BEYOND)
    ],
}

STREAM_OPTIONS: Cases = {
    "": ANY_VALUE_IS_VALID,
    ".max_delay": [
        Bad({"max_delay": value}, ".max_delay")
        for value in (
            duration_pb2.Duration(seconds=10, nanos=1),
            duration_pb2.Duration(nanos=-1),
            *NOT_DURATIONS,
        )
    ],
    ".max_tokens": ANY_VALUE_IS_VALID,
    ".content": [Bad({"content": content}, ".content") for content in (77, -1)],
}

GOOD = {"prompt": {"text": "Hello"}, "stop": {"max_tokens": 2}}


def good_with(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a good generation with these instead."""
    merged = {**GOOD, **values}
    return {name: value for name, value in merged.items() if value is not None}


def with_stream(values: dict[str, Any]) -> dict[str, Any]:
    return {"generation": GOOD, "stream": values}


STREAM_GENERATE: Cases = {
    "generation": [Bad({}, "generation.prompt")],
    **under(GENERATION, "generation.", lambda values: {"generation": good_with(values)}),
    **under(STREAM_OPTIONS, "stream", with_stream),
}

OPEN: Cases = {
    **STREAM_GENERATE,
    "id": each_of("id", 0),
    "credit_tokens": [
        Bad({"generation": GOOD, "stream": {"content": TEXT}, "credit_tokens": 5}, "credit_tokens")
    ],
    "credit_messages": ANY_VALUE_IS_VALID,
    # W3C has a broken trace context replaced, not refused.
    "trace_context": ANY_VALUE_IS_VALID,
    "trace_context.traceparent": ANY_VALUE_IS_VALID,
    "trace_context.tracestate": ANY_VALUE_IS_VALID,
}

ATTACH: Cases = {
    "resume_token": each_of("resume_token", "", "invented", "!", "x" * 100_000),
    # Of a generation that exists: tests of their own.
    "token_offsets": ANY_VALUE_IS_VALID,
    **dict.fromkeys((f"stream{path}" for path in STREAM_OPTIONS), ANY_VALUE_IS_VALID),
}

DETOKENIZE_IDS = [
    Bad({"token_ids": [VOCABULARY]}, "token_ids[0]"),
    Bad({"token_ids": [1, BEYOND]}, "token_ids[1]"),
]
