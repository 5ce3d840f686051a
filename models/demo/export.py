"""Export hf/ to OpenVINO IR with int8 weights, with the tokenizer as IR too (guided decoding needs it)."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import openvino_tokenizers
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoTokenizer

import openvino as ov

HERE = Path(__file__).resolve().parent
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def export(source: Path, target: Path) -> None:
    """Write the int8 model, tokenizer and detokenizer IR of source into target, and copy the small files."""
    shutil.rmtree(target, ignore_errors=True)
    config = OVWeightQuantizationConfig(bits=8, sym=True)
    model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, quantization_config=config)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder, decoder = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    ov.save_model(encoder, target / "openvino_tokenizer.xml")
    ov.save_model(decoder, target / "openvino_detokenizer.xml")
    (target / "openvino_config.json").unlink(missing_ok=True)  # only Optimum reads it
    # The library rewrites these in its own way: both folders must hold the same bytes.
    for name in COPIED:
        shutil.copyfile(source / name, target / name)
    for path in sorted(target.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.name}")


def main() -> None:
    """Parse the two folders and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=HERE / "hf")
    parser.add_argument("--target", type=Path, default=HERE / "openvino")
    options = parser.parse_args()
    export(options.source, options.target)


if __name__ == "__main__":
    main()
