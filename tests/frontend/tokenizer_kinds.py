"""Tokenizers of the kinds that serving meets, made on the spot, and real ones where they lie."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
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


@functools.cache
def kinds() -> dict[str, Tokenizer]:
    """Every tokenizer to test with, by name."""
    found = {
        "byte_level": Tokenizer({"tokenizer.json": byte_level().to_str().encode()}),
        "byte_fallback": Tokenizer({"tokenizer.json": byte_fallback().to_str().encode()}),
    }
    files = {"demo": DEMO, "gpt2": REAL / "gpt2.json", "llama2": REAL / "llama2.json"}
    for name, path in files.items():
        if path.exists():
            found[name] = Tokenizer({"tokenizer.json": path.read_bytes()})
    return found
