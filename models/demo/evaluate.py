"""Measure the int8 OpenVINO model on the held set, by greedy answers of openvino_genai's batching pipeline on the CPU.

Prints right answers per kind and exits with 1 when fewer than 95 % are right. `--ask` answers one prompt instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import jinja2
import numpy as np
import openvino_genai
from tokenizers import Tokenizer

import openvino as ov
from world import conversations, held

HERE = Path(__file__).resolve().parent
NEEDED = 0.95  # share of right answers
MOST_TOKENS = 700  # the longest right answer has about 400

# Properties under which a batch gives the same ids as each prompt alone (slower by about a third).
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


class Model:
    """The exported model, its tokenizer and its chat template."""

    def __init__(self, folder: Path, properties: dict[str, str]) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = jinja2.Environment()
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self.template = environment.from_string((folder / "chat_template.jinja").read_text(encoding="utf-8"))
        scheduler = openvino_genai.SchedulerConfig()
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        self.end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]

    def chat(self, messages: list[dict], **more: object) -> str:
        """The prompt text of chat messages."""
        return self.template.render(messages=messages, add_generation_prompt=True, **more)

    def answers(self, prompts: list[str]) -> list[str]:
        """Greedy answers to prompts, all in one running batch."""
        config = openvino_genai.GenerationConfig()
        config.do_sample = False
        config.max_new_tokens = MOST_TOKENS
        config.eos_token_id = self.end
        handles = []
        for number, prompt in enumerate(prompts):
            ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
            handles.append(self.pipeline.add_request(number, ov.Tensor(np.array([ids], dtype=np.int64)), config))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        return [self.tokenizer.decode(handle.read_all()[0].generated_ids) for handle in handles]


def prompt_of(model: Model, case: held.Case) -> str:
    """The text that the model reads for case."""
    if case.talk is None:
        return case.text
    talk = case.talk
    given = {"tools": talk.tools, "documents": talk.documents, "enable_thinking": talk.thinking}
    return model.chat(conversations.messages(talk), **given)


def measure(model: Model, verbose: bool) -> float:
    """Answer the held set, print right answers per kind, and return the share of right ones."""
    cases = held.held_set()
    start = time.monotonic()
    texts = model.answers([prompt_of(model, case) for case in cases])
    seconds = time.monotonic() - start
    marks: dict[str, list[bool]] = defaultdict(list)
    for case, text in zip(cases, texts, strict=True):
        right = held.grade(case, text)
        marks[case.kind].append(right)
        if verbose and not right:
            asked = case.talk.turns[-1].user if case.talk else case.text
            print(f"wrong {case.kind}: {asked!r} -> {text[:100]!r}, not {case.expected[:100]!r}")
    for kind, given in sorted(marks.items()):
        print(f"{kind:18} {sum(given):3} of {len(given):3}  {100 * sum(given) / len(given):5.1f} %")
    total = sum(sum(given) for given in marks.values())
    print(f"{'all':18} {total:3} of {len(cases):3}  {100 * total / len(cases):5.1f} %  in {seconds:.0f} s")
    return total / len(cases)


def main() -> None:
    """Measure, or answer one prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE / "openvino")
    parser.add_argument("--exact", action="store_true", help="f32 throughout, so that batching cannot change an answer")
    parser.add_argument("--verbose", action="store_true", help="print wrong answers")
    parser.add_argument("--ask", help="answer this prompt and stop")
    options = parser.parse_args()
    model = Model(options.folder, EXACT if options.exact else {})
    if options.ask is not None:
        print(model.answers([model.chat([{"role": "user", "content": options.ask}])])[0])
        return
    if measure(model, options.verbose) < NEEDED:
        sys.exit(1)


if __name__ == "__main__":
    main()
