"""Prompts of the demo model that several tests share, and how answers end."""

from __future__ import annotations

import itertools

from tokenwire.frontend.v1 import generation_pb2, prompt_pb2

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH

STORY = "The capital of France is Paris. One and one is two. My name is"


def chat(*turns: str, **fields) -> dict:
    roles = itertools.cycle([prompt_pb2.ROLE_USER, prompt_pb2.ROLE_ASSISTANT])
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return {"chat": {"messages": messages, **fields}}
