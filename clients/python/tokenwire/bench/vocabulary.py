"""Words of the served model's tokenizer, from which prompts of a known length are made.

The tokenizer itself is asked, through the frontend, so that no model file is required here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import grpc

from tokenwire.frontend.v1 import tokenization_pb2
from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceStub

CANDIDATES = 4096
"""Ids that are looked at: enough for some hundred words of most vocabularies."""

WORDS = 1024
"""Most words: enough that no two prompts are alike."""

LEAST_WORDS = 16
"""Fewer make prompts that repeat themselves."""

ANCHOR = "a"
"""What a text begins with: the first word of a text may be tokenised unlike the same word later."""

_FIRST_ID = 3
"""The ids below are control tokens in nearly every vocabulary."""

_RPC_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Vocabulary:
    """Words that are one token each wherever they stand after a space."""

    words: Sequence[str]
    ids: Sequence[int]
    anchor_tokens: int
    """Tokens of ANCHOR with the special tokens that the tokenizer adds."""

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it, for Vocabulary(**...)."""
        return asdict(self)


def read(channel: grpc.Channel, model: str, vocabulary_size: int) -> Vocabulary:
    """Asks the frontend for words; their choice depends on the vocabulary alone.

    `words` is empty where the tokenizer has fewer than LEAST_WORDS; prompts are then token ids.

    Raises:
        grpc.RpcError: the frontend does not answer.
    """
    stub = TokenizationServiceStub(channel)
    random = Random(vocabulary_size)  # noqa: S311 - repeatable, not secret
    known = range(_FIRST_ID, vocabulary_size)
    candidates = sorted(random.sample(known, min(CANDIDATES, len(known))))
    texts = _texts(stub, model, candidates)
    plain = [each for each, text in zip(candidates, texts, strict=True) if text]
    likely = {
        text.strip(): each
        for each, text in zip(candidates, texts, strict=True)
        if text[:1].isspace() or len(text) > 1
        if _is_word(text.strip())
    }
    counts = _counts(stub, model, [ANCHOR, *(f"{ANCHOR} {word}" for word in likely)])
    anchor = counts[0]
    found = [
        (word, each)
        for (word, each), count in zip(likely.items(), counts[1:], strict=True)
        if count == anchor + 1
    ]
    random.shuffle(found)
    found = found[:WORDS]
    if len(found) < LEAST_WORDS:
        return Vocabulary([], plain[:WORDS], anchor)
    return Vocabulary([word for word, _ in found], [each for _, each in found], anchor)


def _is_word(text: str) -> bool:
    return len(text) > 1 and text.isascii() and text.isalpha()


def _texts(stub: TokenizationServiceStub, model: str, ids: Sequence[int]) -> list[str]:
    """Returns each id's text; that of control tokens is empty."""

    def requests() -> Iterator[tokenization_pb2.StreamDetokenizeRequest]:
        for number, each in enumerate(ids, 1):
            yield tokenization_pb2.StreamDetokenizeRequest(
                model=model, sequence=number, token_ids=[each], end=True
            )

    return [each.text for each in stub.StreamDetokenize(requests(), timeout=_RPC_TIMEOUT_S)]


def _counts(stub: TokenizationServiceStub, model: str, texts: Sequence[str]) -> list[int]:
    """Returns the number of tokens of each text, with the special tokens that are added."""
    requests = (tokenization_pb2.StreamTokenizeRequest(model=model, text=text) for text in texts)
    answers = stub.StreamTokenize(requests, timeout=_RPC_TIMEOUT_S)
    return [len(each.token_ids) for each in answers]
