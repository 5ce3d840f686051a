"""`tokenwire-worker quantize`: what was asked for, checked before anything is loaded."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenwire_service.settings import LineParser, refuse

from tokenwire_worker.quantize.formats import FORMATS, KV_CACHE_FORMATS, Recipe
from tokenwire_worker.quantize.prompts import Prompt, PromptsError, chosen, read

SAMPLES = 512
"""What Model Optimizer's own recipes calibrate with."""

SAMPLE_TOKENS = 512
"""Likewise; longer prompts are cut."""

FEW_SAMPLES = 128
"""From fewer the ranges of activations are told by chance."""

HOW_TO_INSTALL = "pip install './inference_worker[quantize]' in a checkout of Tokenwire"
NEEDS = ("modelopt", "torch", "transformers", "accelerate")


def main(program: str, arguments: Sequence[str]) -> int:
    """Quantises a model folder; returns 0, or exits with code 64 where that is not possible."""
    program = f"{program} quantize"
    asked = _parser(program).parse_args(arguments)
    _check_folders(program, asked)
    format_ = FORMATS[asked.format]
    if asked.block_size not in (None, format_.block, *format_.blocks):
        refuse(program, f"--block-size: {asked.block_size} is not one of {asked.format}")
    try:
        prompts = read(asked.prompts)
    except PromptsError as error:
        refuse(program, f"--prompts: {error}")
    calibrated, held_out = chosen(prompts, asked.samples)
    if not calibrated:
        refuse(program, f"--prompts: {asked.prompts} has no prompts")
    if len(calibrated) < FEW_SAMPLES:
        _note(f"{len(calibrated)} different prompts; at least {FEW_SAMPLES} are advised")
    # Both libraries print to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        written = _quantised(program, asked, calibrated, held_out)
    _unfinished(asked.out).rename(asked.out)
    _report(asked, written)
    return 0


def _quantised(
    program: str, asked: argparse.Namespace, calibrated: list[Prompt], held_out: list[Prompt]
) -> Any:
    """Writes the folder under its unfinished name; returns what is told of it."""
    try:
        optimizer = importlib.import_module("tokenwire_worker.quantize.optimizer")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDS:
            raise
        refuse(program, f"{error.name} is not installed; this brings it: {HOW_TO_INSTALL}")
    try:
        return optimizer.quantize(
            asked.model,
            _unfinished(asked.out),
            Recipe(asked.format, asked.kv_cache, asked.block_size, tuple(asked.exclude)),
            calibrated,
            held_out,
            asked.sample_tokens,
            asked.device,
        )
    except optimizer.OptimizerError as error:
        refuse(program, str(error))


def _parser(program: str) -> argparse.ArgumentParser:
    parser = LineParser(
        prog=program,
        description="Quantises a model folder with NVIDIA Model Optimizer, calibrated on prompts "
        "of your own, and writes a Hugging Face folder that the engines load as it is. "
        "`tokenwire evaluate` tells what it costs in accuracy.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Hugging Face folder, 16 or 32 bits",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write; must not exist"
    )
    parser.add_argument(
        "--format", choices=FORMATS, required=True, help="of weights and activations"
    )
    parser.add_argument(
        "--kv-cache", choices=KV_CACHE_FORMATS, help="scales for a KV cache of this format"
    )
    parser.add_argument(
        "--block-size",
        type=int,
        choices=sorted({size for each in FORMATS.values() for size in each.blocks}),
        help="weights that share a scale, where rows are no multiple of int4_awq's 128",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="MODULES",
        help="modules that stay in 16 bits, by a pattern of their names, such as '*.down_proj'; "
        "repeatable",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="prompts like those that the model will get: a line each, or JSON lines (.jsonl) with "
        "text, prompt or messages",
    )
    parser.add_argument(
        "--samples",
        type=_positive,
        default=SAMPLES,
        help="most prompts to calibrate with; default: %(default)s",
    )
    parser.add_argument(
        "--sample-tokens",
        type=_positive,
        default=SAMPLE_TOKENS,
        metavar="TOKENS",
        help="most tokens of each; default: %(default)s",
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what computes; default: %(default)s",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def _check_folders(program: str, asked: argparse.Namespace) -> None:
    try:
        config = json.loads((asked.model / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        refuse(program, f"--model: {asked.model} has no config.json that can be read: {error}")
    if "quantization_config" in config or (asked.model / "hf_quant_config.json").exists():
        refuse(program, f"--model: {asked.model} is quantised already")
    if not (asked.model / "tokenizer.json").is_file():
        refuse(program, f"--model: {asked.model} has no tokenizer.json")
    if asked.out.exists():
        refuse(program, f"--out: {asked.out} exists")
    if not asked.out.parent.is_dir():
        refuse(program, f"--out: {asked.out.parent} is not a folder")
    # What a run that was killed has left.
    shutil.rmtree(_unfinished(asked.out), ignore_errors=True)


def _unfinished(out: Path) -> Path:
    """Returns where the folder is written, so that a half-written one never has the final name."""
    return out.with_name(f".{out.name}.unfinished")


def _report(asked: argparse.Namespace, written: Any) -> None:
    if written.held_out_tokens:
        before, after = written.perplexity_before, written.perplexity_after
        print(
            f"perplexity of {written.held_out_tokens:,} tokens that calibration did not see: "
            f"{before:.4f}, quantised {after:.4f} ({after / before - 1:+.2%})"
        )
    else:
        _note("every prompt was used to calibrate, so that none is left to compare with")
    kv_cache = f", KV cache {asked.kv_cache}" if asked.kv_cache else ""
    print(
        f"{asked.out}: {asked.format}{kv_cache}, {written.bytes / 1e9:.2f} GB, "
        f"{written.samples} prompts of {written.sample_tokens:,} tokens, {written.took_s:.0f} s"
    )
    format_ = FORMATS[asked.format]
    if format_.engines:
        print(f"loaded by: {', '.join(format_.engines)}")
    else:
        _note(f"no engine of this worker is known to load {asked.format}")
    if written.capability is not None and written.capability < format_.capability:
        have, least = (
            ".".join(map(str, each)) for each in (written.capability, format_.capability)
        )
        _note(f"this GPU (compute capability {have}) does not compute {asked.format}; {least} does")


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)
