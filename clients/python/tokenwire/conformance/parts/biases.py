"""Banned words and biases."""

from __future__ import annotations

import re

from tokenwire.conformance.deployment import ANSWER_TOKENS, Deployment
from tokenwire.conformance.rule import Rule, Skipped, expect
from tokenwire.frontend.v1 import model_pb2


def _banned_words(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_BANNED_WORDS)
    found = re.search(r"[A-Za-z]{2,}", deployment.stream().text())
    if found is None:
        raise Skipped("the model's answer has no word that could be banned")
    word = found[0]
    banned = {"temperature": 0.0, "banned_words": [word]}
    ids = deployment.stream(deployment.generation(sampling=banned)).ids()
    for text in (word, f" {word}", f"\n{word}"):
        run = deployment.tokenize(text, add_special_tokens=False)
        starts = range(len(ids) - len(run) + 1)
        has_run = any(ids[start : start + len(run)] == run for start in starts)
        expect(not has_run, f"{text!r} was banned and was generated")


def _logit_bias(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_LOGIT_BIAS)
    token = deployment.stream().ids()[0]
    away = {"temperature": 0.0, "logit_bias": [{"token_id": token, "bias": -100.0}]}
    first = deployment.stream(deployment.generation(sampling=away)).ids()[0]
    expect(first != token, f"token {token} came first in spite of a bias of -100")
    other = (token + 1) % deployment.model.vocabulary_size
    if other in deployment.model.eos_token_ids:
        other = (token + 2) % deployment.model.vocabulary_size
    to = {"temperature": 0.0, "logit_bias": [{"token_id": other, "bias": 100.0}]}
    ids = deployment.stream(deployment.generation(sampling=to)).ids()
    seen = f"a bias of 100 gave token {other} {ids.count(other)} times of {ANSWER_TOKENS}"
    expect(ids == [other] * ANSWER_TOKENS, seen)


RULES = (
    Rule("B1", "banned words", _banned_words),
    Rule("B2", "logit_bias", _logit_bias),
)
