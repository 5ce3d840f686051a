"""The tokenizer of a GGUF file as a tokenizer.json, which frontends and engines read.

Two kinds are known, by `tokenizer.ggml.model`: `gpt2`, byte-level BPE, and `llama`, SentencePiece's
BPE with bytes for what it has no token for. Others are refused by name.
"""

from __future__ import annotations

import json
from typing import Any

from tokenwire_service.wording import cut

from tokenwire_worker.gguf.header import GgufError, Header
from tokenwire_worker.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, description
from tokenwire_worker.model_files import SHOWN_BYTES

KINDS = ("gpt2", "llama")

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Values of tokenizer.ggml.token_type: tokens that are found in text before it is split."""

SPACE = "\u2581"
"""Stands for a space in SentencePiece's vocabularies."""


class Vocabulary:
    """The tokens of a file, with what is special about some.

    Raises:
        GgufError: the file has no tokenizer, or one that is not supported.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self.kind = header.text("tokenizer.ggml.model", "")
        if not self.kind:
            raise GgufError("it has no tokenizer (tokenizer.ggml.model); give --tokenizer-folder")
        if self.kind not in KINDS:
            raise GgufError(
                f"its tokenizer is of the kind {cut(self.kind, SHOWN_BYTES)!r}; supported are "
                f"{' and '.join(KINDS)}; give --tokenizer-folder"
            )
        self.tokens: list[str] = self._list("tokens", str)
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(each for at, each in enumerate(self.tokens) if self.ids[each] != at)
            raise GgufError(f"its vocabulary has {cut(twice, SHOWN_BYTES)!r} more than once")
        kinds = self._list("token_type", int, required=False)
        if kinds and len(kinds) != len(self.tokens):
            raise GgufError(
                f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(self.tokens)} tokens"
            )
        self.control = {at for at, kind in enumerate(kinds) if kind == CONTROL}
        self.added = {
            at for at, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        }

    def token_id(self, name: str) -> int | None:
        """Returns the id that the file gives a role, such as `bos`; None where it gives none."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self._header.pairs.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            shown = cut(repr(value), SHOWN_BYTES)
            raise GgufError(f"its {key} is {shown}, which is not a token id")
        # Files name ids beyond the vocabulary for roles that the model does not have.
        return value if 0 <= value < len(self.tokens) else None

    def flag(self, name: str, *, default: bool) -> bool:
        """Returns a setting of the tokenizer, such as `add_bos_token`."""
        return bool(self._header.pairs.get(f"tokenizer.ggml.{name}", default))

    @property
    def pre_tokenizer(self) -> PreTokenizer:
        """How text is split before merging, of the kind gpt2.

        Raises:
            GgufError: the file names one that is not supported.
        """
        name = self._header.text("tokenizer.ggml.pre", "default")
        if name not in PRE_TOKENIZERS:
            raise GgufError(
                f"its pre-tokenizer (tokenizer.ggml.pre) is {cut(name, SHOWN_BYTES)!r}, which is "
                f"not supported; give --tokenizer-folder, a folder with the model's tokenizer.json"
            )
        return PRE_TOKENIZERS[name]

    @property
    def begins(self) -> bool:
        """Prompts begin with the beginning-of-sequence token."""
        default = self.kind == "llama" or self.pre_tokenizer.begins
        return self.token_id("bos") is not None and self.flag("add_bos_token", default=default)

    @property
    def ends(self) -> bool:
        """Prompts end with the end-of-sequence token, as those of few models do."""
        return self.token_id("eos") is not None and self.flag("add_eos_token", default=False)

    def merges(self) -> list[tuple[str, str]]:
        """Returns the pairs of tokens that make another, first those that are merged first.

        Raises:
            GgufError: the file lacks them, or what they are made of.
        """
        if self.kind == "llama":
            return self._merges_by_score()
        return [self._merge(each) for each in self._list("merges", str)]

    def _merge(self, text: str) -> tuple[str, str]:
        left, _, right = text.partition(" ")
        if not all(each in self.ids for each in (left, right, left + right)):
            raise GgufError(
                f"tokenizer.ggml.merges has {cut(text, SHOWN_BYTES)!r}, which are no tokens"
            )
        return left, right

    def _merges_by_score(self) -> list[tuple[str, str]]:
        """SentencePiece merges whatever makes the token of the highest score."""
        scores = self._list("scores", float, int)
        if len(scores) != len(self.tokens):
            raise GgufError(
                f"tokenizer.ggml.scores has {len(scores)} entries for {len(self.tokens)} tokens"
            )
        found = []
        for token_id, token in enumerate(self.tokens):
            if token_id in self.added:
                continue
            for cut_at in range(1, len(token)):
                left, right = token[:cut_at], token[cut_at:]
                if left in self.ids and right in self.ids:
                    order = (-scores[token_id], token_id, self.ids[left], self.ids[right])
                    found.append((order, (left, right)))
        return [pair for _, pair in sorted(found)]

    def _list(self, name: str, *kinds: type, required: bool = True) -> list[Any]:
        key = f"tokenizer.ggml.{name}"
        values = self._header.pairs.get(key)
        if values is None and not required:
            return []
        if not isinstance(values, list) or not all(isinstance(each, kinds) for each in values):
            raise GgufError(f"it has no list {key} of {kinds[0].__name__}")
        return values


def tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """Returns the tokenizer as a tokenizer.json.

    Raises:
        GgufError: a part of it is missing, or not supported.
    """
    of_kind = _byte_level(vocabulary) if vocabulary.kind == "gpt2" else _sentence_piece(vocabulary)
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(vocabulary, each) for each in sorted(vocabulary.added)],
        "post_processor": _post_processor(vocabulary),
        **of_kind,
    }
    return json.dumps(description, ensure_ascii=False).encode(errors="replace")


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    pre = vocabulary.pre_tokenizer
    return {
        "normalizer": {"type": "NFC"} if pre.normal_form else None,
        "pre_tokenizer": description(pre),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _model(vocabulary, ignore_merges=pre.whole_words),
    }


def _sentence_piece(vocabulary: Vocabulary) -> dict[str, Any]:
    prefix = vocabulary.flag("add_space_prefix", default=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    put_first = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    restore = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    decoders = [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    unknown = vocabulary.token_id("unknown")
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*put_first, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(
            vocabulary,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _model(vocabulary: Vocabulary, **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocabulary.ids,
        "merges": vocabulary.merges(),
    }


def _added(vocabulary: Vocabulary, token_id: int) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": vocabulary.tokens[token_id],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token_id in vocabulary.control or token_id == vocabulary.token_id("unknown"),
    }


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Puts a prompt between the tokens that it begins and ends with."""
    around = {
        "bos": vocabulary.token_id("bos") if vocabulary.begins else None,
        "eos": vocabulary.token_id("eos") if vocabulary.ends else None,
    }
    used = {role: token_id for role, token_id in around.items() if token_id is not None}
    if not used:
        return None

    def around_it(sequence: str, type_id: int) -> list[dict[str, Any]]:
        special = {
            role: [{"SpecialToken": {"id": vocabulary.tokens[each], "type_id": type_id}}]
            for role, each in used.items()
        }
        text = {"Sequence": {"id": sequence, "type_id": type_id}}
        return [*special.get("bos", []), text, *special.get("eos", [])]

    return {
        "type": "TemplateProcessing",
        "single": around_it("A", 0),
        "pair": around_it("A", 0) + around_it("B", 1),
        "special_tokens": {
            vocabulary.tokens[each]: {
                "id": vocabulary.tokens[each],
                "ids": [each],
                "tokens": [vocabulary.tokens[each]],
            }
            for each in used.values()
        },
    }
