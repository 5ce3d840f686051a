"""Quantises a model with NVIDIA Model Optimizer, and writes it as a Hugging Face folder."""

from __future__ import annotations

import copy
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Models are folders: nothing is looked for elsewhere.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tokenwire_worker.model_files import TEXT_FILES
from tokenwire_worker.quantize.formats import FORMATS, KV_CACHE_FORMATS, Recipe
from tokenwire_worker.quantize.prompts import Prompt, batches

_WRITTEN_BY_THE_EXPORT = ("config.json", "generation_config.json")


class OptimizerError(Exception):
    """The model or the machine does not allow it."""


@dataclass(frozen=True)
class Written:
    """What was written and what it was made with."""

    bytes: int
    samples: int
    sample_tokens: int
    """Of all samples together."""
    took_s: float
    held_out_tokens: int
    """Tokens that the perplexities are of; 0: no prompts were held out."""
    perplexity_before: float
    perplexity_after: float
    """With the weights and activations rounded as the format has them."""
    capability: tuple[int, int] | None
    """Of the GPU that computed, if one did."""


def quantize(
    model: Path,
    out: Path,
    recipe: Recipe,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    sample_tokens: int,
    device: str,
) -> Written:
    """Calibrates the model on the prompts, quantises it and writes the folder.

    Raises:
        OptimizerError: the device is not available, or has no memory for the model, or the
            format's blocks do not fit its rows, or what is to be excluded is not there.
    """
    start_s = time.monotonic()
    disable_progress_bar()  # the command says how far it has come, by lines
    if device == "cuda" and not torch.cuda.is_available():
        raise OptimizerError("--device cuda: PyTorch sees no GPU; --device cpu works, slowly")
    tokenizer = AutoTokenizer.from_pretrained(model)
    samples = list(_tokenised(tokenizer, prompts, sample_tokens))
    kept = list(_tokenised(tokenizer, held_out, sample_tokens))
    if not samples:
        raise OptimizerError("--prompts: no prompt has two tokens or more")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype="auto", device_map="auto" if device == "cuda" else "cpu"
        ).eval()
        _check(loaded, recipe)
        with torch.inference_mode():
            before, tokens = _perplexity(loaded, kept, "before")
            mtq.quantize(loaded, _configuration(recipe), _calibration(samples))
            after, _ = _perplexity(loaded, kept, "after")
            export_hf_checkpoint(loaded, export_dir=out)
    except torch.cuda.OutOfMemoryError as error:
        raise OptimizerError(f"the GPU's memory is too small: {error}") from error
    for name in TEXT_FILES:
        if name not in _WRITTEN_BY_THE_EXPORT and (model / name).is_file():
            shutil.copy(model / name, out / name)
    return Written(
        bytes=sum(each.stat().st_size for each in out.glob("*.safetensors")),
        samples=len(samples),
        sample_tokens=sum(map(len, samples)),
        took_s=time.monotonic() - start_s,
        held_out_tokens=tokens,
        perplexity_before=before,
        perplexity_after=after,
        capability=torch.cuda.get_device_capability() if device == "cuda" else None,
    )


def _check(model: Any, recipe: Recipe) -> None:
    """Refuses what Model Optimizer, or an engine, would refuse after the calibration."""
    rows = {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }
    if fault := recipe.fault_with(rows):
        raise OptimizerError(fault)
    for name, weights in rows.items():
        if weights % recipe.block and not recipe.excludes(name):
            raise OptimizerError(
                f"--format {recipe.format}: {name} has rows of {weights} weights, "
                f"which is not a multiple of its block size, {recipe.block}"
            )


def _configuration(recipe: Recipe) -> Any:
    configuration = copy.deepcopy(getattr(mtq, FORMATS[recipe.format].configuration))
    for quantizer in configuration["quant_cfg"]:
        sizes = (quantizer.get("cfg") or {}).get("block_sizes") or {}
        if recipe.block_size is not None and -1 in sizes:
            sizes[-1] = recipe.block_size
    # Of weights and inputs: the scales of the KV cache are those of every layer.
    configuration["quant_cfg"] += [
        {"quantizer_name": f"{pattern}.{quantizer}", "enable": False}
        for pattern in recipe.exclude
        for quantizer in ("weight_quantizer", "input_quantizer")
    ]
    if recipe.kv_cache is None:
        return configuration
    of_the_cache = getattr(mtq, KV_CACHE_FORMATS[recipe.kv_cache])
    return mtq.utils.update_quant_cfg_with_kv_cache_quant(configuration, of_the_cache["quant_cfg"])


def _tokenised(tokenizer: Any, prompts: Sequence[Prompt], most: int) -> Iterator[list[int]]:
    """Yields the ids of each prompt that has two or more, cut."""
    for prompt in prompts:
        if isinstance(prompt, str):
            ids = tokenizer(prompt).input_ids
        else:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) > 1:
            yield ids[:most]


def _calibration(samples: Sequence[list[int]]) -> Any:
    """Returns Model Optimizer's forward loop; some formats run it several times."""
    passes = 0

    def forward(model: Any) -> None:
        nonlocal passes
        passes += 1
        for batch in _shown(samples, f"calibration, pass {passes}"):
            model(torch.tensor(batch, device=model.device), use_cache=False)

    return forward


def _perplexity(model: Any, prompts: Sequence[list[int]], when: str) -> tuple[float, int]:
    """Returns the perplexity of the prompts' tokens, and how many there were."""
    nats, tokens = 0.0, 0
    for batch in _shown(prompts, f"perplexity {when}"):
        ids = torch.tensor(batch, device=model.device)
        scored = ids.numel() - len(batch)  # the first of each has nothing before it
        nats += float(model(ids, labels=ids, use_cache=False).loss) * scored
        tokens += scored
    return (math.exp(nats / tokens), tokens) if tokens else (math.nan, 0)


def _shown(prompts: Sequence[list[int]], what: str) -> Iterator[list[list[int]]]:
    """Yields the prompts in batches and says how far it has come, up to ten times."""
    done = 0
    for batch in batches(prompts):
        yield batch
        before, done = done, done + len(batch)
        if done * 10 // len(prompts) > before * 10 // len(prompts):
            print(f"{what}: {done} of {len(prompts)}", file=sys.stderr, flush=True)
