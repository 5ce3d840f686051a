"""Records what llama.cpp makes of texts, with each pre-tokenizer.

It rewrites tests/worker/gguf_tokenizers.json, which has the texts. It imports packages that are no
dependency of the project: gguf, tokenizers, xllamacpp, sentencepiece. The vocabularies are trained
on the texts themselves without any splitting, so that merges reach over every boundary, and where a
pre-tokenizer splits shows in the ids.

    python tools/record_gguf_tokenizers.py PORT
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import sentencepiece
import xllamacpp
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests/worker/gguf_tokenizers.json"
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
TEXTS: list[str] = json.loads(TARGET.read_text())["texts"]
BYTE_LEVEL = [
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "dbrx",
    "qwen2",
    "stablelm2",
    "tekken",
    "gpt-4o",
    "falcon",
    "deepseek-coder",
    "deepseek-v3",
]  # one of each kind


def byte_level() -> dict[str, list[str]]:
    """Trains byte-level BPE; returns tokens and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = [re.sub("|".join(map(re.escape, SPECIAL)), "", text) for text in TEXTS]
    lines = [text[at : at + 24] for text in plain for at in range(0, len(text), 3)]
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=1100, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return {"tokens": tokens + SPECIAL, "merges": merges}


def sentence_piece() -> dict[str, list]:
    """Trains SentencePiece's BPE with bytes; returns pieces, scores and types."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=model, vocab_size=800, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["<|user|>"],
    )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(trained.get_piece_size())

    def kind(each: int) -> int:
        if each == 0:
            return 2
        if trained.is_control(each):
            return 3
        if trained.is_byte(each):
            return 6
        return 4 if trained.id_to_piece(each) == "<|user|>" else 1

    return {
        "tokens": [trained.id_to_piece(each) for each in ids],
        "scores": [trained.get_score(each) for each in ids],
        "types": [kind(each) for each in ids],
    }


def write(path: Path, vocabulary: dict, **tokenizer: object) -> None:
    """Writes a model of one layer with the vocabulary."""
    writer = GGUFWriter(path, "llama")
    size, count = 64, len(vocabulary["tokens"])
    writer.add_block_count(1)
    writer.add_context_length(4096)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(size)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(count)
    for name, value in tokenizer.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(
        vocabulary.get("types") or [3 if each in SPECIAL else 1 for each in vocabulary["tokens"]]
    )
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
    else:
        writer.add_token_scores(vocabulary["scores"])
    for role, token in {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}.items():
        getattr(writer, f"add_{role}_token_id")(vocabulary["tokens"].index(token))
    rng = np.random.default_rng(1)
    shapes = {"token_embd": (count, size), "output_norm": (size,), "blk.0.attn_norm": (size,)}
    shapes |= {f"blk.0.{name}": (size, size) for name in ("attn_q", "attn_k", "attn_v")}
    shapes |= {f"blk.0.{name}": (size, size) for name in ("attn_output", "ffn_gate", "ffn_up")}
    shapes |= {"blk.0.ffn_down": (size, size), "blk.0.ffn_norm": (size,)}
    for name, shape in shapes.items():
        kind = np.float16 if len(shape) == 2 else np.float32
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenized(path: Path, port: int) -> list[list[int]]:
    """Returns what llama.cpp makes of the texts."""
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx, params.warmup = str(path), port, 256, False
    server = xllamacpp.Server(params)
    address = f"{server.listening_address}/tokenize"
    answers = []
    for text in TEXTS:
        body = {"content": text, "add_special": True, "parse_special": True}
        request = urllib.request.Request(address, json.dumps(body).encode())
        with urllib.request.urlopen(request) as answer:
            answers.append(json.load(answer)["tokens"])
    del server
    return answers


def main() -> None:
    """Records all."""
    port = int(sys.argv[1])
    bpe, pieces = byte_level(), sentence_piece()
    folder = Path(tempfile.mkdtemp())
    ids = {}
    for pre in BYTE_LEVEL:
        path = folder / f"{pre}.gguf"
        write(path, bpe, tokenizer_model="gpt2", tokenizer_pre=pre)
        ids[pre] = tokenized(path, port)
    for prefix in (True, False):
        path = folder / f"spm-{prefix}.gguf"
        write(path, pieces, tokenizer_model="llama", add_space_prefix=prefix)
        ids[f"llama{'' if prefix else ' without a prefix'}"] = tokenized(path, port)
    data = {
        "made_by": f"tools/record_gguf_tokenizers.py with xllamacpp {xllamacpp.__version__}",
        "texts": TEXTS, "gpt2": bpe, "llama": pieces, "ids": ids,
    }  # fmt: skip
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in data.items() if k != "ids")
    kinds = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in ids.items())
    TARGET.write_text(f'{{{rows},\n"ids": {{\n{kinds}\n}}}}\n')


if __name__ == "__main__":
    main()
