"""Conversations: requests that have the new turn alone."""

from __future__ import annotations

import uuid
from typing import Any

import grpc

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, expect
from tokenwire.frontend.v1 import generation_pb2, prompt_pb2

_FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def _name() -> str:
    return f"conformance-{uuid.uuid4().hex}"


def _turn(
    deployment: Deployment, name: str, messages: int, said: str, **fields: Any
) -> generation_pb2.Generation:
    deployment.need_chat_template()
    message = prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content=said)
    prompt = prompt_pb2.Prompt(chat=prompt_pb2.Chat(messages=[message]))
    held = generation_pb2.Conversation(id=name, messages=messages)
    return deployment.generation(prompt, conversation=held, **fields)


def _begins(deployment: Deployment) -> None:
    what = _turn(deployment, _name(), 0, "Hello")
    accepted = deployment.stream(what).accepted
    expect(accepted.HasField("conversation"), "accepted.conversation is not set")
    expect(accepted.conversation.messages == 0, "a new conversation begins with messages")
    rendered = len(deployment.render(what.prompt.chat).token_ids)
    told = accepted.prompt_token_count
    expect(told == rendered, f"the prompt has {told} tokens; the chat has {rendered}")


def _goes_on(deployment: Deployment) -> None:
    name = _name()
    first = deployment.stream(_turn(deployment, name, 0, "Hello"))
    accepted = deployment.stream(_turn(deployment, name, 2, "And then?")).accepted
    made = accepted.conversation
    expect(made.messages == 2, f"{made.messages} messages were held; not 2")
    expect(
        made.kept_tokens >= first.accepted.prompt_token_count,
        f"{made.kept_tokens} tokens were kept of a turn of {first.accepted.prompt_token_count}",
    )
    total, told = made.kept_tokens + made.encoded_tokens, accepted.prompt_token_count
    expect(total == told, f"{total} tokens were kept or encoded; the prompt has {told}")


def _gone(deployment: Deployment) -> None:
    refusal = refused(lambda: deployment.stream(_turn(deployment, _name(), 2, "Hello")))
    refusal.expect(_FAILED_PRECONDITION, "CONVERSATION_GONE")


def _mismatch(deployment: Deployment) -> None:
    name = _name()
    deployment.stream(_turn(deployment, name, 0, "Hello"))
    refusal = refused(lambda: deployment.stream(_turn(deployment, name, 7, "Hello")))
    refusal.expect(_FAILED_PRECONDITION, "CONVERSATION_MISMATCH")


def _chats_alone(deployment: Deployment) -> None:
    held = generation_pb2.Conversation(id=_name())
    what = deployment.generation(conversation=held)
    refused(lambda: deployment.stream(what)).expect_field("generation.conversation")


def _repeated(deployment: Deployment) -> None:
    name = _name()
    deployment.stream(_turn(deployment, name, 0, "Hello"))
    for said in ("And then?", "And before?"):
        made = deployment.stream(_turn(deployment, name, 2, said)).accepted.conversation
        expect(made.messages == 2, f"{made.messages} messages were held; not 2")


def _busy(deployment: Deployment) -> None:
    name = _name()
    call = deployment.start(_turn(deployment, name, 0, "Hello", max_tokens=None))
    next(call)
    refusal = refused(lambda: deployment.stream(_turn(deployment, name, 0, "Hello")))
    call.cancel()
    refusal.expect(grpc.StatusCode.ABORTED, "CONVERSATION_BUSY")


RULES = needing(
    generation_pb2.Generation.DESCRIPTOR,
    "conversation",
    Rule("H1", "a new conversation", _begins),
    Rule("H2", "the new turn alone", _goes_on),
    Rule("H3", "a conversation that is not held", _gone),
    Rule("H4", "another number of messages", _mismatch),
    Rule("H5", "chats alone", _chats_alone),
    Rule("H6", "the last turn is repeated", _repeated),
    Rule("H7", "one turn at a time", _busy),
)
