"""Train the demo model's tokenizer and write every small file of the Hugging Face folder.

Byte-level BPE, 4,096 entries: 8 special tokens, the 256 bytes, and merges learnt from the generated world. Digits are
split one by one, because a model this small learns to add only when every digit is its own token.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent

BEGIN, SYSTEM, USER, ASSISTANT = "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>"
TOOL, END, PAD, RESERVED = "<|tool|>", "<|end|>", "<|pad|>", "<|reserved|>"
SPECIALS = (PAD, BEGIN, SYSTEM, USER, ASSISTANT, TOOL, END, RESERVED)  # ids 0 to 7, in this order
VOCABULARY = 4096
CONTEXT_TOKENS = 4096

# Words with one leading non-letter, single digits, runs of punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 320,
    "intermediate_size": 832,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "use_cache": True,
    "pad_token_id": SPECIALS.index(PAD),
    "bos_token_id": SPECIALS.index(BEGIN),
    "eos_token_id": SPECIALS.index(END),
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
}


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from texts; returns a tokenizer that adds no special token by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        max_token_length=12,  # bytes: keeps whole Chinese or Japanese sentences from becoming one token
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"{tokenizer.get_vocab_size()} entries instead of {VOCABULARY}: more text is needed")
    return tokenizer


def write_json(path: Path, value: object) -> None:
    """Write value as indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer, its settings, the chat template and the model's configuration into folder."""
    folder.mkdir(parents=True, exist_ok=True)
    template = (HERE / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    write_json(folder / "special_tokens_map.json", names)
    added = {
        str(index): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for index, text in enumerate(SPECIALS)
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": added,
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": template,
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "config.json", CONFIG)
    generation = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {**generation, "do_sample": False})


def main() -> None:
    """Train on texts of the world and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "hf")
    parser.add_argument("--documents", type=int, default=200_000, help="how many generated texts to learn from")
    options = parser.parse_args()
    from world import conversations

    tokenizer = train(conversations.tokenizer_texts(options.documents))
    write_folder(tokenizer, options.out)
    print(f"{tokenizer.get_vocab_size()} entries -> {options.out}")


if __name__ == "__main__":
    main()
