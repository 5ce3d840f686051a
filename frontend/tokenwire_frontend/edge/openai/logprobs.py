"""Log probabilities in both forms that OpenAI's interface has, each as columns of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tokenwire_frontend.core.logprobs import TokenLogprob

TokenBytes = Mapping[int, bytes]

Told = dict[str, list[Any]]
"""Those of some tokens, by column."""


class Scorer(Protocol):
    """Tells the log probabilities of one sequence, part by part."""

    def part(
        self, values: Sequence[TokenLogprob], token_bytes: TokenBytes, *, begins: bool = False
    ) -> Told:
        """Returns those of the next tokens.

        Args:
            values: theirs.
            token_bytes: bytes of each id.
            begins: the first is the prompt's first token, which has no probability.
        """


class Columns:
    """Those of a whole sequence, written as JSON part by part.

    Args:
        scorer: tells them.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        # A sequence without tokens has columns too.
        self._columns: dict[str, list[bytes]] = {name: [] for name in scorer.part((), {})}

    def add(
        self, values: Sequence[TokenLogprob], token_bytes: TokenBytes, *, begins: bool = False
    ) -> None:
        """Adds those of the next tokens."""
        for name, told in self._scorer.part(values, token_bytes, begins=begins).items():
            text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
            self._columns[name].append(text[1:-1].encode())

    def json(self) -> bytes:
        """Returns all as a JSON object."""
        columns = [
            b'"%s":[%s]' % (name.encode(), b",".join(parts))
            for name, parts in self._columns.items()
        ]
        return b"{" + b",".join(columns) + b"}"


class ChatLogprobs:
    """Those of a chat's choice."""

    def part(
        self, values: Sequence[TokenLogprob], token_bytes: TokenBytes, *, begins: bool = False
    ) -> Told:
        """Returns those of the next tokens; a chat is not told of its prompt."""
        content = [
            {
                **_token(value.token_id, value.logprob, token_bytes),
                "top_logprobs": [_token(*each, token_bytes) for each in value.alternatives],
            }
            for value in values
        ]
        return {"content": content}


def _token(token_id: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    raw = token_bytes[token_id]
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionLogprobs:
    """Those of a completion's choice, whose offsets count on from one part to the next.

    Args:
        alternatives: whether alternatives were asked for.
    """

    def __init__(self, *, alternatives: bool) -> None:
        self._alternatives = alternatives
        self._offset = 0

    def part(
        self, values: Sequence[TokenLogprob], token_bytes: TokenBytes, *, begins: bool = False
    ) -> Told:
        """Returns those of the next tokens."""
        told: Told = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for place, value in enumerate(values):
            known = not (begins and place == 0)
            tops = _tops(value, token_bytes) if known and self._alternatives else None
            told["tokens"].append(_name(token_bytes[value.token_id]))
            told["token_logprobs"].append(value.logprob if known else None)
            told["top_logprobs"].append(tops)
            told["text_offset"].append(self._offset)
            self._offset += len(token_bytes[value.token_id].decode(errors="ignore"))
        return told


def _tops(value: TokenLogprob, token_bytes: TokenBytes) -> dict[str, float]:
    """Returns the likeliest tokens at a place, and the one that is there."""
    tops: dict[str, float] = {}
    for token_id, logprob in (*value.alternatives, (value.token_id, value.logprob)):
        name = _name(token_bytes[token_id])
        tops[name] = max(logprob, tops.get(name, logprob))
    return tops


def _name(raw: bytes) -> str:
    """Returns a token as text; bytes that are none by themselves as OpenAI writes them."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
