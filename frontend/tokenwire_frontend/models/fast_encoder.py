"""Text to ids by `fastokens`, many times faster than by `tokenizers`, where both give the same ids.

`tokenizers` is the reference. A tokenizer is left to it where `fastokens` refuses its
tokenizer.json, where a rule below says that the two may differ, and where they do differ on one of
the texts that each model is checked with as it is loaded.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tokenwire_frontend.models.cache_counts import CacheCounts
from tokenwire_frontend.models.token_bound import knows_every_byte

try:
    import fastokens
except ImportError:  # no wheel for every platform that tokenizers has one for
    fastokens = None

# Read when the first text is encoded: no threads that would take cores from the services.
os.environ["FASTOKENS_BPE_THREADS"] = "1"

SHORT_CHARS = 4096
"""A text that is short enough to be encoded on the event loop: about 1,000 tokens of prose. It
takes 10 to 500 us, and 1 to 2 ms of the slowest kinds of text."""

SHORT_LIMIT_S = 0.01
"""CPU time that a text of SHORT_CHARS may take, or the model's texts are not encoded on the loop:
half of what may hold the loop. A regular expression whose time grows with the square of a text's
length takes more."""

ADDED_TOKENS_CHECKED = 64
"""Added tokens that the texts of the check contain; some vocabularies have thousands of a kind."""

Encode: TypeAlias = "Callable[[str, bool], array[int]]"
"""Text, and whether to add special tokens, to ids."""

_TEXTS = (
    "", " ", "Hello, world!", " Hello  world ", "\n", "\r\n\r\nline\r\n", "\t\ttabs \t mixed\n  \n",
    "don't I'LL we've it'S he'd", "1234567890 3.14 1e-5 \u0662\u0663 \u2167 \u00bd", "x" * 300,
    "    def f(self, x):\n        return x ** 2  # why\n", "CamelCaseWords snake_case kebab-case",
    "!!! ... ?! --- === /* */ // <tag/> </s> <s> <unk> [INST]", "\x00\x01\x1b\x7f\x85",
    "<0x0A> <0x1B><0x2C> <0x3D><0x4E> <0x5F><0x67><0x89>", "  " * 40 + "end" + "\n" * 20,
    "e\u0301 \u00e9 \u212b \ufb01 \u0130 \u00df \u01c5 \u1e9b\u0323 \uac00 \u1100\u1161 \u0958",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u6f22\u5b57\u3002\uff21\uff11", "\ufdfa",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0391\u03b8\u03ae\u03bd\u03b1 \u05e9\u05dc\u05d5",
    "\u0639\u0631\u0628\u064a \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f1ef\U0001f1f5 \u00a0\u2003\u2028\u3000\u200b\ufeff\u00ad", "\U0010fffd \ud7ff",
    "\u2581 \u2581\u2581a \u0120b \u010a", "https://example.org/a?b=c#d%20 \\n {\"k\": [1, null]}",
)  # fmt: skip
"""What tokenizers treat in ways of their own."""

_RUNS = ("a", " ", "\n", " \t", "0", "!", "'", "\u00e9", "\u6f22", "\U0001f600", "a ", "aB", "a\n ")
"""What a text of the slowest kinds repeats."""


class NotFastError(Exception):
    """`tokenizers` has to encode; the message says why."""


class FastEncoder:
    """One tokenizer.

    Args:
        source: tokenizer.json.

    Raises:
        NotFastError: `fastokens` does not know a part of the tokenizer, or is not installed.
    """

    def __init__(self, source: str) -> None:
        if fastokens is None:
            raise NotFastError("fastokens is not installed")
        try:
            self._tokenizer = fastokens.Tokenizer.from_json_str(source)
        except ValueError as error:
            raise NotFastError(f"fastokens refuses it: {error}"[:200]) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def remember(self, cache_bytes: int) -> None:
        """Lets it remember texts between special tokens: the turns of a chat come again.

        Args:
            cache_bytes: most bytes of such texts and their ids; the least recently used are
                forgotten first. 0: nothing is remembered.
        """
        self._tokenizer.enable_segment_cache(cache_bytes)

    def encode(self, text: str, add_special_tokens: bool) -> array[int]:
        """Returns the ids. Releases the GIL.

        Raises:
            NotFastError: a regular expression of the tokenizer gave up on the text.
        """
        try:
            ids, _ = self._tokenizer.encode_batch_flat([text], add_special_tokens)
        except ValueError as error:
            raise NotFastError(f"fastokens can't encode it: {error}"[:200]) from error
        return array("I", ids)

    def cache_counts(self) -> CacheCounts:
        """Returns what it remembers, and how often that has served."""
        told = self._tokenizer.segment_cache_stats()
        if told is None:
            return CacheCounts()
        return CacheCounts(
            told["hits"], told["misses"], told["hit_bytes"], told["miss_bytes"], told["bytes"]
        )


def checked(source: str, whole: dict[str, Any], reference: Encode) -> FastEncoder:
    """Returns a tokenizer's FastEncoder.

    Args:
        source: tokenizer.json.
        whole: the same, parsed.
        reference: what `tokenizers` makes of a text.

    Raises:
        NotFastError: the two differ, or may differ.
    """
    model = whole["model"]
    if model.get("type", "BPE") != "BPE":
        raise NotFastError(f"its model is {model['type']}, not BPE")
    if model.get("dropout"):
        raise NotFastError("its merges are dropped at random")
    if model.get("unk_token") is None and not knows_every_byte(whole, model["vocab"].keys()):
        raise NotFastError("characters may lack a token, and the vocabulary lacks an unknown token")
    encoder = FastEncoder(source)
    added = [each["content"] for each in whole.get("added_tokens") or ()]
    for text in _check_texts(added):
        for special in (True, False):
            if encoder.encode(text, special) != reference(text, special):
                raise NotFastError(f"fastokens has other ids for {text[:40]!r}")
    return encoder


def encodes_at_once(encoder: FastEncoder) -> bool:
    """Tells whether no short text takes long."""
    return all(_cpu_s(encoder, run) <= SHORT_LIMIT_S for run in _RUNS)


def _check_texts(added: list[str]) -> Iterator[str]:
    yield from _TEXTS
    yield " ".join(_TEXTS)
    half = ADDED_TOKENS_CHECKED // 2
    chosen = added if len(added) <= 2 * half else added[:half] + added[-half:]
    for token in chosen:
        yield f"{token}a {token} b{token}{token}\n{token}c \t{token}"
        yield token[:-1]
        yield token + token[1:]
    yield "".join(chosen)


def _cpu_s(encoder: FastEncoder, run: str) -> float:
    """Returns the CPU time of a text of runs: the least of three, for what else the machine does.

    No text is the same as another, for what the encoder remembers.
    """
    least = float("inf")
    for first in "xyz":
        text = (first + run * SHORT_CHARS)[:SHORT_CHARS]
        began_s = time.thread_time()
        encoder.encode(text, add_special_tokens=False)
        least = min(least, time.thread_time() - began_s)
    return least
