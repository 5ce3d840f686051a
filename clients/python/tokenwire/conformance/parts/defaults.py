"""Defaults of fields that are left unset."""

from __future__ import annotations

from tokenwire.conformance.deployment import PROMPT, Deployment
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.frontend.v1 import generation_pb2

_CONTEXT_TOKENS = 2048
"""A prompt that fills a larger context takes a CPU many seconds."""
_ROOM_TOKENS = 16


def _max_tokens(deployment: Deployment) -> None:
    model = deployment.model
    if model.context_tokens > _CONTEXT_TOKENS:
        raise Skipped(f"it takes a prompt that fills a context of {model.context_tokens} tokens")
    count = min(model.prompt_tokens_limit, model.context_tokens - _ROOM_TOKENS)
    room = model.context_tokens - count
    if room > _ROOM_TOKENS:
        raise Skipped(f"a prompt leaves room for at least {room} tokens")
    ids = deployment.tokenize(PROMPT)
    prompt = (ids * (count // len(ids) + 1))[:count]
    found = deployment.stream(deployment.generation(prompt, None))
    used = found.completed.usage.completion_tokens
    expect(used == room, f"{used} tokens were generated where there was room for {room}")
    found.expect_reason(generation_pb2.FINISH_REASON_LENGTH)


RULES = (
    unseen(
        "F1",
        "the model's own defaults",
        "generation_config.json is not known, and sampling shows no exact value",
    ),
    Rule("F2", "max_tokens fills the context", _max_tokens),
)
