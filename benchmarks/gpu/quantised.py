"""The real model in every format, compared with its original: part `quantised`."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import Run
from benchmarks.gpu.engines import REAL, Variant
from benchmarks.gpu.processes import ROOT

EVALUATED = 40_960
"""Tokens of the text that is scored: 40 windows."""

PROMPT_CHARS = (300, 4000)
"""Lengths of the paragraphs that serve as prompts: all have the 64 tokens that are taken of each,
and many are computed at once."""

QUANTISING_S = 150.0
"""Bound of one run of `tokenwire-worker quantize`, beside the others and the starts of engines."""

STARTING_S = 90.0
"""Bound of an engine's start with a quantised model: what has no kernels here may take long."""

CALIBRATION = ("--samples", "128", "--sample-tokens", "64")
"""As many prompts as the command advises at least."""


@dataclass(frozen=True)
class Case:
    """One way to quantise the real model."""

    options: tuple[str, ...]
    served: bool = True
    """vLLM loads it, and this GPU computes it or has a way around."""


def _without_layers(*layers: int) -> list[str]:
    return [word for layer in layers for word in ("--exclude", f"model.layers.{layer}.*")]


CASES = {
    "fp8": Case(("--format", "fp8", *CALIBRATION)),
    "fp8, FP8 KV cache": Case(("--format", "fp8", "--kv-cache", "fp8", *CALIBRATION)),
    "fp8_pc_pt": Case(("--format", "fp8_pc_pt", *CALIBRATION)),
    "fp8_pc_pt, down_proj in 16 bits": Case(
        ("--format", "fp8_pc_pt", "--exclude", "*.down_proj", *CALIBRATION)
    ),
    "fp8_pc_pt, layers 0, 15, 20, 29 in 16 bits": Case(
        ("--format", "fp8_pc_pt", *_without_layers(0, 15, 20, 29), *CALIBRATION)
    ),
    "fp8_pc_pt, these layers and down_proj in 16 bits": Case(
        (
            *("--format", "fp8_pc_pt", "--exclude", "*.down_proj"),
            *_without_layers(0, 15, 20, 29),
            *CALIBRATION,
        )
    ),
    "nvfp4": Case(("--format", "nvfp4", *CALIBRATION)),
    # The model's rows are of 576 weights.
    "int4_awq, blocks of 64": Case(
        ("--format", "int4_awq", "--block-size", "64", *CALIBRATION), served=False
    ),
    "int8_sq": Case(("--format", "int8_sq", *CALIBRATION), served=False),
}


def quantised(run: Run) -> None:
    """Quantises the model in every way, then serves and evaluates what vLLM loads."""
    prompts, text = run.logs / "prompts.jsonl", run.logs / "text.txt"
    prompts.write_text("".join(f"{json.dumps({'text': each})}\n" for each in _prompts()))
    text.write_text(_text())

    def whole(name: str, case: Case) -> dict[str, Any]:
        found = _quantise(run, name, case, prompts)
        run.say(f"quantize {name}: {found}")
        if case.served and "failed" not in found:
            found["evaluation"] = _evaluate(run, name, text)
            run.say(f"evaluate {name}: {found['evaluation']}")
        return found

    with ThreadPoolExecutor(len(CASES)) as pool:
        found = pool.map(whole, CASES, CASES.values())
        run.results["quantised"] = dict(zip(CASES, found, strict=True))


def _folder(name: str) -> str:
    return "real-" + re.sub(r"\W+", "-", name)


def _prompts() -> Iterator[str]:
    """Yields paragraphs of Python's language reference, which every Python has."""
    least, most = PROMPT_CHARS
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        for paragraph in topic.split("\n\n"):
            if least <= len(paragraph) <= most:
                yield paragraph


def _text() -> str:
    """Returns this project's documentation: prose of the same kind that calibration did not see."""
    return "\n".join(each.read_text() for each in sorted((ROOT / "docs").glob("*.md")))


def _quantise(run: Run, name: str, case: Case, prompts: Path) -> dict[str, Any]:
    """Runs the command that users have, and returns what it said of the result."""
    out = run.models["real"].with_name(_folder(name))
    shutil.rmtree(out, ignore_errors=True)  # an earlier run's
    command = [
        *(sys.executable, "-m", "tokenwire_worker", "quantize"),
        *("--model", str(run.models["real"]), "--out", str(out), "--prompts", str(prompts)),
        *("--device", "cpu" if run.chosen.dry else "cuda"),
        *case.options,
    ]
    try:
        with _log(run, name).open("w") as log:
            code = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=log, timeout=QUANTISING_S, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {QUANTISING_S:.0f} s, beside others"}
    said = _log(run, name).read_text()
    if code:
        last = said.strip().splitlines()[-1:] or [f"exit code {code}"]
        return {"failed": last[0][:400]}
    return {
        "said": [
            line
            for line in said.splitlines()
            if re.match(r"perplexity of|note:|\S+: (fp8|nvfp4|int)", line)
        ]
    }


def _log(run: Run, name: str) -> Path:
    return run.logs / f"quantize-{_folder(name)}.log"


def _evaluate(run: Run, name: str, text: Path) -> dict[str, Any]:
    """Compares a served format with the original, by the command that users have."""
    eager = Variant(_folder(name), REAL | {"enforce_eager": True}, start_s=STARTING_S)
    run.engines.begin((), **{_folder(name): eager})
    try:
        target, baseline = run.engines.pair(_folder(name)), run.engines.pair("real")
    except RuntimeError as error:
        return {"failed": str(error)[-400:]}
    out = run.logs / f"evaluate-{_folder(name)}.json"
    start_s = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tokenwire", "evaluate", "--text", str(text)),
            *("--target", target.frontend.address, "--baseline", baseline.frontend.address),
            *("--tokens", str(EVALUATED), "--json", str(out)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if not out.exists():
        return {"failed": done.stderr.strip().splitlines()[-1][:400]}
    took_s = time.perf_counter() - start_s
    return {**json.loads(out.read_text()), "exit_code": done.returncode, "took_s": took_s}
