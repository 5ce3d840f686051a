"""All rules of docs/contract.md, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tokenwire.conformance.parts import (
    attaching,
    biases,
    compatibility,
    continuation,
    conversations,
    defaults,
    delivery,
    errors,
    idempotency,
    json_text,
    logprobs,
    prompts,
    services,
    session,
    stream,
    tokenisation,
    traces,
)
from tokenwire.conformance.rule import Rule

RULES: tuple[Rule, ...] = (
    *services.RULES,
    *tokenisation.RULES,
    *stream.RULES,
    *session.RULES,
    *delivery.RULES,
    *continuation.RULES,
    *attaching.RULES,
    *idempotency.RULES,
    *json_text.RULES,
    *prompts.RULES,
    *conversations.RULES,
    *biases.RULES,
    *logprobs.RULES,
    *errors.RULES,
    *defaults.RULES,
    *traces.RULES,
    *compatibility.RULES,
)


def selected(patterns: Sequence[str]) -> list[Rule]:
    """Returns the rules whose number one of the patterns matches, such as `S3` or `E*`.

    Raises:
        ValueError: a pattern matches no rule.
    """
    for pattern in patterns:
        if not any(fnmatchcase(rule.number, pattern) for rule in RULES):
            raise ValueError(f"--rule: no rule is called {pattern!r}, such as S3 or E*")
    return [rule for rule in RULES if any(fnmatchcase(rule.number, each) for each in patterns)]
