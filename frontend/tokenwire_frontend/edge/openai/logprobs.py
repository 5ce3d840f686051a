"""Log probabilities in both forms that OpenAI's interface has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenwire_frontend.core.logprobs import TokenLogprob

TokenBytes = Mapping[int, bytes]


def of_chat(values: Sequence[TokenLogprob], token_bytes: TokenBytes) -> dict[str, Any]:
    """Returns those of a chat's choice."""
    return {
        "content": [
            {
                **_token(value.token_id, value.logprob, token_bytes),
                "top_logprobs": [_token(*each, token_bytes) for each in value.alternatives],
            }
            for value in values
        ],
        "refusal": None,
    }


def _token(token_id: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    raw = token_bytes[token_id]
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionLogprobs:
    """Those of a completion's choice, whose offsets count on from one chunk to the next."""

    def __init__(self) -> None:
        self._offset = 0

    def part(
        self,
        values: Sequence[TokenLogprob],
        token_bytes: TokenBytes,
        *,
        alternatives: bool,
        begins: bool = False,
    ) -> dict[str, list[Any]]:
        """Returns those of the next tokens.

        Args:
            values: theirs.
            token_bytes: bytes of each id.
            alternatives: whether alternatives were asked for.
            begins: the first is the prompt's first token, which has no probability.
        """
        told: dict[str, list[Any]] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []
        }  # fmt: skip
        for place, value in enumerate(values):
            known = not (begins and place == 0)
            told["tokens"].append(_name(token_bytes[value.token_id]))
            told["token_logprobs"].append(value.logprob if known else None)
            tops = _tops(value, token_bytes) if known and alternatives else None
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
