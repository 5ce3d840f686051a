"""Tokenizers of the kinds that serving meets, made on the spot, and real ones where they lie."""

from __future__ import annotations

import functools
import json
import marshal
import os
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("TOKENWIRE_TEST_TOKENIZERS", ROOT.parent / "shared/data/tokenizers"))
DEMO = ROOT / "models/demo/openvino/tokenizer.json"

TEXTS = [
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "Ein Wort gibt das andere; größer, schöner, weiter.",
    "数字 123 と 漢字 と かな。",
    "emoji 😀 👩‍👩‍👧‍👦 🏳️‍🌈 and é è ñ",
]


def byte_level() -> HfTokenizer:
    """A GPT-2-style tokenizer: bytes as the alphabet, no context in decoding."""
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def byte_fallback() -> HfTokenizer:
    """A Llama-2-style tokenizer: spaces as U+2581, unknown characters as runs of byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = sorted(set("".join(TEXTS[:2])) - {" "})
    words = ["▁t", "▁th", "▁the", "he", "▁w", "or", "▁wor", "an", "▁an", "er", "▁H", "lo"]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *letters])}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("h", "e"), ("▁", "w"), ("o", "r")]
    merges += [("▁w", "or"), ("a", "n"), ("▁", "an"), ("e", "r"), ("▁", "H"), ("l", "o")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = HfTokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def without_strip() -> HfTokenizer:
    """A Gemma-style tokenizer: byte fallback, and nothing special at the text's beginning."""
    tokenizer = byte_fallback()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def unigram() -> HfTokenizer:
    """A T5-style tokenizer: Unigram pieces, and the first space dropped in decoding."""
    tokenizer = HfTokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def word_piece() -> HfTokenizer:
    """A BERT-style tokenizer: `##` continues a word, and spaces before punctuation are dropped."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "hello",
        "world",
        "do",
        "n't",
        "##s",
        "##ing",
        "##",
    ]
    words += [".", ",", "!", "'", "it", "'s", "the", "fox", "##es", "not", "'m", "is", "\ufffd"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = HfTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def word_suffix() -> HfTokenizer:
    """A CLIP-style tokenizer: `</w>` ends a word, which reads as a space unless it is the last."""
    words = ["<end>", "hello</w>", "wor", "ld</w>", "!</w>", "a", "b</w>", "</w>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = HfTokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def word_level() -> HfTokenizer:
    """Whole words, joined by spaces: there is no decoder."""
    words = ["<unk>", "<end>", "hello", "world", "the", "fox", ".", ""]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = HfTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return tokenizer


def connectionist() -> HfTokenizer:
    """Pieces that are merged where one repeats, and a pad between those that are not to merge."""
    vocabulary = {
        piece: index for index, piece in enumerate(["<pad>", "|", "a", "b", "c", "<end>"])
    }
    tokenizer = HfTokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.decoder = decoders.CTC()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def nested_fallback() -> HfTokenizer:
    """Byte fallback by a decoder that is a sequence of sequences."""
    tokenizer = byte_fallback()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()]),
            decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
        ]
    )
    return tokenizer


def nested_bytes() -> HfTokenizer:
    """Bytes as the alphabet, by a decoder that is one of several."""
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    return tokenizer


MADE = [
    byte_level, byte_fallback, without_strip, unigram, word_piece, word_suffix, word_level,
    connectionist, nested_fallback, nested_bytes,
]  # fmt: skip


class WholeTokenizer(Tokenizer):
    """A tokenizer with both of its sides in this process."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.encoder = Encoder(source)
        description = self.encoder.describe(json.loads(source))
        tokens = list(chain.from_iterable(map(marshal.loads, description["tokens"])))
        super().__init__(**{**description, "tokens": tokens})

    def encode_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self.encoder.encode(text, add_special_tokens=add_special_tokens)[0].tolist()


@functools.cache
def kinds() -> dict[str, WholeTokenizer]:
    """Every tokenizer to test with, by name."""
    found = {make.__name__: WholeTokenizer(make().to_str()) for make in MADE}
    files = {"demo": DEMO, "gpt2": REAL / "gpt2.json", "llama2": REAL / "llama2.json"}
    for name, path in files.items():
        if path.exists():
            found[name] = WholeTokenizer(path.read_text())
    return found
