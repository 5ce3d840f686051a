"""What a generation's span tells of its request, and of its texts where those are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from tokenwire_service.telemetry import semconv

from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.request import (
    ChatPrompt,
    GenerationRequest,
    TextPrompt,
    content_texts,
)

CHARACTERS_LIMIT = 16_384
"""Of a prompt, and of an output: collectors refuse large spans."""


def asked(request: GenerationRequest) -> dict[str, int | float]:
    """Returns what the caller asked for, as far as it did, by attribute."""
    sampling, stopping = request.sampling, request.stopping
    asked = {
        semconv.GEN_AI_REQUEST_MAX_TOKENS: (
            0 if request.output.prompt_alone else stopping.max_tokens
        ),
        semconv.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
        semconv.GEN_AI_REQUEST_TOP_P: sampling.top_p,
        semconv.GEN_AI_REQUEST_TOP_K: sampling.top_k,
        # An attribute's integer is signed; a larger seed would cost the whole batch of spans.
        semconv.GEN_AI_REQUEST_SEED: (
            sampling.seed if sampling.seed is not None and sampling.seed < 2**63 else None
        ),
        semconv.GEN_AI_REQUEST_CHOICE_COUNT: (
            request.sequence_count if request.sequence_count != 1 else None
        ),
    }
    return {name: value for name, value in asked.items() if value is not None}


def input_messages(request: GenerationRequest) -> str:
    """Returns the prompt in the form of the gen_ai conventions."""
    prompt = request.prompt
    if isinstance(prompt, ChatPrompt):
        texts = [(each["role"], "".join(content_texts(each))) for each in prompt.messages]
    elif isinstance(prompt, TextPrompt):
        texts = [("user", prompt.text)]
    else:
        texts = []  # token ids are no text
    return json.dumps(_messages(texts))


def output_messages(outputs: Mapping[int, Delta], finishes: Sequence[str]) -> str:
    """Returns the whole output of each sequence in the form of the gen_ai conventions."""
    messages, left = [], CHARACTERS_LIMIT
    for number, output in sorted(outputs.items()):
        parts = []
        for part, key in _parts(output):
            part[key] = part[key][:left]
            left -= len(part[key])
            parts.append(part)
        messages.append({"role": "assistant", "parts": parts, "finish_reason": finishes[number]})
    return json.dumps(messages)


def _parts(output: Delta) -> Iterator[tuple[dict[str, str], str]]:
    """Yields the parts of an output, and which entry of each has its text."""
    if output.reasoning:
        yield {"type": "reasoning", "content": output.reasoning}, "content"
    if output.text or not output.calls:
        yield {"type": "text", "content": output.text}, "content"
    for call in output.calls:
        told = {"type": "tool_call", "id": call.id, "name": call.name}
        yield {**told, "arguments": call.arguments}, "arguments"


def _messages(texts: Sequence[tuple[str, str]]) -> list[dict[str, object]]:
    """Returns messages of these roles and texts, with as much text as the limit lets."""
    messages: list[dict[str, object]] = []
    left = CHARACTERS_LIMIT
    for role, text in texts:
        part = {"type": "text", "content": text[:left]}
        messages.append({"role": role, "parts": [part]})
        left = max(left - len(text), 0)
    return messages
