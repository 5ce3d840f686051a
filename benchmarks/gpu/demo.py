"""The demo model's greedy answers, to be the same on every engine.

    python -m benchmarks.gpu.demo          # records what OpenVINO answers on this machine's CPU

The answers that are compared with are in demo_answers.json, with the hash of the weights that they
belong to: those of another model are not compared.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tokenwire import Client

from benchmarks.gpu.processes import ROOT, Services

ANSWERS = Path(__file__).parent / "demo_answers.json"
HUGGING_FACE = ROOT / "models/demo/hf"
OPENVINO = ROOT / "models/demo/openvino"
MAX_TOKENS = 96

PROMPTS = (
    "hi",
    "Who are you?",
    "What is 17 + 25?",
    "Count from 3 to 12",
    "List five colours",
    "Spell garden.",
    "Give me a JSON object with the name Ada and age 36",
    "What is the capital of Japan?",
    "What does a worker do?",
    "Tell me a story about a fox.",
)


def fingerprint(model: Path) -> str:
    """Returns the SHA-256 of a model's weights in Hugging Face's form."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def answers(frontend: str) -> dict[str, str]:
    """Returns the greedy answer to each prompt."""
    with Client(frontend, timeout=120) as client:
        return {
            prompt: client.generate(
                chat=[{"role": "user", "content": prompt}], temperature=0.0, max_tokens=MAX_TOKENS
            ).text
            for prompt in PROMPTS
        }


def compare(found: dict[str, str], model: Path) -> dict[str, Any]:
    """Returns how many answers equal the recorded ones, and those that do not.

    Raises:
        ValueError: the recorded ones are another model's.
    """
    recorded = json.loads(ANSWERS.read_text())
    if recorded["weights_sha256"] != fingerprint(model):
        raise ValueError(f"{ANSWERS} was recorded with other weights than {model} has")
    expected = recorded["answers"]
    differing = {
        prompt: {"expected": expected[prompt], "found": text}
        for prompt, text in found.items()
        if text != expected[prompt]
    }
    return {"equal": len(found) - len(differing), "of": len(found), "differing": differing}


def main() -> None:
    """Records the answers of the OpenVINO engine."""
    with tempfile.TemporaryDirectory() as logs, Services(Path(logs)) as services:
        pair = services.pair("record", ["--model", str(OPENVINO), "--engine", "openvino"])
        found = answers(pair.frontend.address)
    record = {"weights_sha256": fingerprint(HUGGING_FACE), "answers": found}
    ANSWERS.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(ANSWERS.read_text())


if __name__ == "__main__":
    main()
