"""What transformers makes of the real model's chats, on the same GPU and in float32.

python -m benchmarks.gpu.reference FOLDER OUT.json [cuda|cpu]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MAX_TOKENS = 64

CHATS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Write a haiku about the sea.",
    "What is 12 times 12?",
    "Explain what a compiler does in two sentences.",
    "List five animals that live in the ocean.",
    "Who wrote Romeo and Juliet?",
    "Give me a short recipe for pancakes.",
    "Translate 'good morning' into French.",
    "Why is the sky blue?",
)

PASSAGE = (
    "The library opens at nine in the morning and closes at six in the evening. Visitors may "
    "borrow up to five books at a time, and each of them has to be returned within three weeks."
)
"""A text whose own log probabilities are compared."""


def messages(text: str) -> list[dict[str, str]]:
    """Returns a chat of one turn."""
    return [{"role": "user", "content": text}]


def main(folder: Path, out: Path, device: str) -> None:
    """Writes, for each chat, the prompt's ids, the greedy ids and their log probabilities."""
    import torch  # noqa: PLC0415 - of GPU hosts; the services' tests read this module's chats
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()

    def logprobs(ids: list[int]) -> Any:
        return torch.log_softmax(model(torch.tensor([ids], device=device)).logits[0], dim=-1)

    found: dict[str, Any] = {"chats": []}
    with torch.inference_mode():
        for chat in CHATS:
            text = tokenizer.apply_chat_template(
                messages(chat), tokenize=False, add_generation_prompt=True
            )
            prompt = tokenizer(text, add_special_tokens=False).input_ids
            answer = model.generate(
                torch.tensor([prompt], device=device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=device),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )[0].tolist()
            scores = logprobs(answer)
            found["chats"].append(
                {
                    "prompt": prompt,
                    "ids": answer[len(prompt) :],
                    "logprobs": [
                        float(scores[place - 1, answer[place]])
                        for place in range(len(prompt), len(answer))
                    ],
                }
            )
        ids = tokenizer(PASSAGE, add_special_tokens=False).input_ids
        scores = logprobs(ids)
        found["passage"] = {
            "ids": ids,
            "logprobs": [float(scores[place - 1, ids[place]]) for place in range(1, len(ids))],
        }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "cuda")
