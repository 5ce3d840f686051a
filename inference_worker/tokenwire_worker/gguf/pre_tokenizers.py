r"""How byte-level BPE tokenizers split text before they merge, by GGUF's names for it.

A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`) and does not describe it; llama.cpp knows
what the names mean. Patterns are in the syntax of the tokenizers package. Each is applied to the
pieces that the one before it made, and what does not match is a piece too.

Source: llama.cpp, src/llama-vocab.cpp. What it makes of texts is recorded in
tests/worker/gguf_tokenizers.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PreTokenizer:
    """One way to split."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    """A piece that is a token as it stands is not merged from smaller ones."""
    begins: bool = False
    """Prompts begin with the beginning-of-sequence token, where the file does not say."""
    normal_form: bool = False
    """Text is brought into Unicode's normal form C first, as the model's own tokenizer does."""


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS_AND_NUMBERS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|" + _REST
"""Words with the character before them, and numbers of as many digits as stand for %s."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words that end where lower case turns to upper case."""

_LLAMA3 = PreTokenizer((_WORDS_AND_NUMBERS % "{1,3}",), whole_words=True, begins=True)
_THREES = PreTokenizer((_WORDS_AND_NUMBERS % "{1,3}",))
_QWEN2 = PreTokenizer((_WORDS_AND_NUMBERS % "",), normal_form=True)
_ONES = PreTokenizer((_WORDS_AND_NUMBERS % "",))
_PLAIN = PreTokenizer((_GPT2,))
_DIGITS = PreTokenizer((_DIGIT, _GPT2))
_GPT4O = PreTokenizer((_CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", "{1,3}"),))

PRE_TOKENIZERS = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _PLAIN,
    "phi-2": _PLAIN,
    "mpt": _PLAIN,
    "olmo": _PLAIN,
    "jais": _PLAIN,
    "mellum": _PLAIN,
    "gigachat": _PLAIN,
    "a.x-4.0": _PLAIN,
    "exaone4": _PLAIN,
    "trillion": _PLAIN,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "minerva-7b": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "lfm2": _LLAMA3,
    "dbrx": _THREES,
    "smaug-bpe": _THREES,
    "glm4": _THREES,
    "chatglm-bpe": _THREES,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "stablelm2": _ONES,
    "hunyuan": _ONES,
    "tekken": PreTokenizer((_CASED % ("", "", ""),), whole_words=True, begins=True),
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "kanana2": _GPT4O,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)
    ),
    "deepseek-v3": PreTokenizer(
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001
            (
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        )
    ),
}
"""Pre-tokenizers by name: those of llama.cpp that text models use, without what embedding models
and single models with a handling of their own need."""


def description(pre: PreTokenizer) -> dict[str, Any]:
    """Returns a pre-tokenizer as tokenizer.json has it."""
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
        for each in pre.patterns
    ]
    as_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"type": "Sequence", "pretokenizers": [*splits, as_bytes]}
