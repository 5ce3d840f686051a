"""Prompts: their forms, their length, and what is kept of them."""

from __future__ import annotations

from functools import partial

import grpc

from tokenwire.conformance.deployment import PROMPT, Deployment
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect
from tokenwire.frontend.v1 import prompt_pb2

_REQUEST_TOKENS = 500_000
"""A request of more ids than this may be too large to be sent."""
_KEPT = 3


def _chat(**fields: object) -> prompt_pb2.Prompt:
    message = {"role": prompt_pb2.ROLE_USER, **(fields or {"content": "Hello"})}
    return prompt_pb2.Prompt(chat=prompt_pb2.Chat(messages=[prompt_pb2.ChatMessage(**message)]))  # type: ignore[arg-type]


def _expect_tokens(deployment: Deployment, prompt: object, wanted: int) -> None:
    told = deployment.stream(deployment.generation(prompt, 1)).accepted.prompt_token_count
    expect(told == wanted, f"the prompt has {told} tokens; not {wanted}")


def _text(deployment: Deployment) -> None:
    for special in (True, False):
        prompt = prompt_pb2.Prompt(text=PROMPT, add_special_tokens=special)
        ids = deployment.tokenize(PROMPT, add_special_tokens=special)
        _expect_tokens(deployment, prompt, len(ids))
    _expect_tokens(deployment, PROMPT, len(deployment.tokenize(PROMPT)))


def _token_ids(deployment: Deployment) -> None:
    ids = deployment.tokenize(PROMPT, add_special_tokens=False) * 2
    _expect_tokens(deployment, ids, len(ids))
    what = deployment.generation([*ids, deployment.model.vocabulary_size])
    refusal = refused(lambda: deployment.stream(what))
    refusal.expect_field(f"generation.prompt.token_ids.ids[{len(ids)}]")


def _rendered_chat(deployment: Deployment) -> None:
    deployment.need_chat_template()
    prompt = _chat()
    _expect_tokens(deployment, prompt, len(deployment.render(prompt.chat).token_ids))


def _no_template(deployment: Deployment) -> None:
    if deployment.model.has_chat_template:
        raise Skipped(f"{deployment.model.name} has a chat template")
    refusal = refused(lambda: deployment.stream(deployment.generation(_chat())))
    refusal.expect(grpc.StatusCode.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE")


def _too_long(deployment: Deployment) -> None:
    limit = deployment.model.prompt_tokens_limit
    if limit > _REQUEST_TOKENS:
        raise Skipped(f"a prompt of more than {limit} tokens may be more than a request takes")
    [token, *_] = deployment.tokenize(PROMPT)
    what = deployment.generation([token] * (limit + 1), 1)
    refusal = refused(lambda: deployment.stream(what))
    refusal.expect(grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")


def _truncated(deployment: Deployment) -> None:
    for form in (
        prompt_pb2.Prompt(text=PROMPT),
        prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=deployment.tokenize(PROMPT))),
    ):
        form.truncate_prompt_tokens = _KEPT
        found = deployment.stream(deployment.generation(form, 1))
        used = found.completed.usage.prompt_tokens
        expect(used == _KEPT, f"usage counts {used} prompt tokens of which {_KEPT} were kept")


def _echo(deployment: Deployment) -> None:
    ids = deployment.tokenize(PROMPT)
    for kept in (ids, ids[-_KEPT:]):
        prompt = prompt_pb2.Prompt(text=PROMPT, truncate_prompt_tokens=len(kept))
        found = deployment.stream(deployment.generation(prompt, 2, output={"echo": True}))
        wanted = deployment.detokenize(kept, skip_special_tokens=False)
        begin = found.text()[: len(wanted)]
        expect(begin == wanted, f"the text begins with {begin!r}; not {wanted!r}")


def _other_media(deployment: Deployment) -> None:
    deployment.need_chat_template()
    for name in ("image_url", "audio_url"):
        prompt = _chat(content_parts=[{name: "https://example.com/1"}])
        refusal = refused(partial(deployment.stream, deployment.generation(prompt)))
        path = f"generation.prompt.chat.messages[0].content_parts[0].{name}"
        refusal.expect_field(path)


RULES = (
    Rule("P1", "special tokens of a text", _text),
    Rule("P2", "token ids as they are", _token_ids),
    Rule("P3", "a chat as it is rendered", _rendered_chat),
    Rule("P4", "no chat template", _no_template),
    Rule("P5", "a prompt that is too long", _too_long),
    Rule("P6", "truncated prompts", _truncated),
    Rule("P7", "echo of what was kept", _echo),
    Rule("P8", "images and audio are refused", _other_media),
)
