"""Train the demo model on one GPU (or, for a smoke test, on a CPU) and measure it on the held set.

Worker processes generate conversations without end and pack them into rows; the trainer takes a block of rows per step.
The learning rate follows the clock, not the step count, so that a run always ends in the minutes it was given. The last
share of the time uses rows of the whole context, with long conversations.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing as mp
import os
import queue
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from demo_tokenizer import CONFIG, CONTEXT_TOKENS
from world import conversations, held

HERE = Path(__file__).resolve().parent
OPEN_ROWS = 24  # rows that are filled at the same time; more waste fewer padding tokens
LONG_SHARE = 0.18  # last share of the time, trained on rows of the whole context
THOUGHT_TOKENS = 100  # the longest thought has about 60, with its marks
BLOCKS_KEPT = 400  # blocks to fall back on when the generators are late


@dataclass
class Block:
    """Rows of packed documents, each array (rows, length): token ids, whether learnt, document number (0: padding)."""

    ids: np.ndarray
    learnt: np.ndarray
    document: np.ndarray


class Encoder:
    """Turns conversations and plain texts into (token ids, learnt flags)."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.end = self.tokenizer.token_to_id("<|end|>")

    def text(self, text: str) -> list[int]:
        """Ids of text, no special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def talk(self, talk: conversations.Conversation) -> tuple[list[int], list[bool]]:
        """Ids of a conversation; answers and the <|end|> after them are learnt."""
        ids: list[int] = []
        learnt: list[bool] = []
        pieces = conversations.pieces(talk)
        encoded = self.tokenizer.encode_batch_fast([piece.text for piece in pieces], add_special_tokens=False)
        for piece, encoding in zip(pieces, encoded, strict=True):
            head = [self.tokenizer.token_to_id(piece.mark)] if piece.mark else []
            text = encoding.ids + ([self.end] if piece.end else [])
            ids += head + text
            learnt += [False] * len(head) + [piece.learnt] * len(text)
        return ids, learnt

    def prompt(self, talk: conversations.Conversation) -> list[int]:
        """Ids of a conversation up to its last answer."""
        ids, learnt = self.talk(talk)
        while learnt[-1]:
            learnt.pop()
        return ids[: len(learnt)]

    def plain(self, text: str) -> tuple[list[int], list[bool]]:
        """Ids of a plain text and its end; all learnt. A question that ends before the line break is a prompt."""
        question, line_break, answer = text.partition("\n")
        ids = [*self.text(question), *self.text(line_break + answer), self.end]
        return ids, [True] * len(ids)


def document(rng: Random, encoder: Encoder, long: bool, copying: float) -> tuple[list[int], list[bool]]:
    """One training document."""
    if long and rng.random() < 0.35:
        return encoder.talk(conversations.many(rng, rng.randint(2500, 10500), rng.choice((0.1, 0.25, 0.5))))
    if rng.random() < copying:
        return encoder.talk(conversations.copying(rng))
    if rng.random() < 0.08:
        return encoder.plain(conversations.plain(rng))
    return encoder.talk(conversations.conversation(rng))


def make_block(rng: Random, encoder: Encoder, rows: int, length: int, copying: float = 0.0) -> Block:
    """Pack documents first-fit into rows until all rows are full."""
    block = Block(
        np.zeros((rows, length), np.int16), np.zeros((rows, length), bool), np.zeros((rows, length), np.int16)
    )
    fill, count = [0] * rows, [0] * rows
    first = 0
    while first < rows:
        ids, learnt = document(rng, encoder, length >= CONTEXT_TOKENS, copying)
        if len(ids) > length:
            continue
        window = range(first, min(first + OPEN_ROWS, rows))
        row = next((row for row in window if fill[row] + len(ids) <= length), None)
        if row is None:  # the oldest row is as full as it gets
            first += 1
            continue
        span = slice(fill[row], fill[row] + len(ids))
        count[row] += 1
        block.ids[row, span], block.learnt[row, span], block.document[row, span] = ids, learnt, count[row]
        fill[row] += len(ids)
    return block


def generate(
    number: int, seed: int, copying: float, tokenizer: Path, shapes: list[tuple[int, int]], phase, blocks
) -> None:
    """Worker process: put blocks of the current phase's shape into the queue for ever."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    held.reserve()
    encoder = Encoder(tokenizer)
    turn = 0
    while True:
        rng = Random(f"{seed}/{number}/{turn}")
        blocks.put(make_block(rng, encoder, *shapes[phase.value], copying))
        turn += 1


class Feed:
    """Blocks for the trainer: fresh ones when there are any, else one of those seen before."""

    def __init__(self, options: argparse.Namespace) -> None:
        context = mp.get_context("spawn")
        self.shapes = [
            (options.rows, options.length),
            (max(1, options.rows * options.length // CONTEXT_TOKENS), CONTEXT_TOKENS),
        ]
        self.phase = context.Value("i", 0)
        self.blocks = context.Queue(maxsize=4 * options.workers)
        self.kept: list[Block] = []
        self.fresh = self.reused = 0
        arguments = (options.seed, options.copying, options.hf / "tokenizer.json", self.shapes, self.phase, self.blocks)
        self.processes = [
            context.Process(target=generate, args=(n, *arguments), daemon=True) for n in range(options.workers)
        ]
        for process in self.processes:
            process.start()

    def start_long(self) -> None:
        """Switch to rows of the whole context."""
        self.phase.value = 1
        self.kept.clear()

    def take(self) -> Block:
        """The next block; waits only while there is nothing to fall back on."""
        length = self.shapes[self.phase.value][1]
        while True:
            try:
                block = self.blocks.get(timeout=120) if len(self.kept) < 20 else self.blocks.get_nowait()
            except queue.Empty:
                if not self.kept:
                    raise
                self.reused += 1
                return self.kept[np.random.randint(len(self.kept))]
            if block.ids.shape[1] == length:
                break
        self.fresh += 1
        self.kept.append(block)
        del self.kept[:-BLOCKS_KEPT]
        return block

    def stop(self) -> None:
        """End the workers."""
        for process in self.processes:
            process.terminate()


def batch_loss(model: LlamaForCausalLM, block: Block, device: str) -> torch.Tensor:
    """Mean cross-entropy over learnt tokens; attention stays inside each document and positions start at 0 in each."""
    ids = torch.from_numpy(block.ids).to(device, non_blocking=True).long()
    learnt = torch.from_numpy(block.learnt).to(device, non_blocking=True)
    doc = torch.from_numpy(block.document).to(device, non_blocking=True)
    length = ids.shape[1]
    index = torch.arange(length, device=device)
    starts = torch.ones_like(doc, dtype=torch.bool)
    starts[:, 1:] = doc[:, 1:] != doc[:, :-1]
    positions = index - torch.where(starts, index, 0).cummax(dim=1).values
    mask = (doc[:, :, None] == doc[:, None, :]) & (index[:, None] >= index[None, :])
    hidden = model.model(
        input_ids=ids, attention_mask=mask[:, None], position_ids=positions, use_cache=False
    ).last_hidden_state
    wanted = learnt[:, 1:] & ~starts[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][wanted])


def new_model(options: argparse.Namespace) -> LlamaForCausalLM:
    """A model with random weights; --tiny shrinks it for a smoke test."""
    torch.manual_seed(1)
    shape = {key: value for key, value in CONFIG.items() if key not in ("architectures", "model_type", "torch_dtype")}
    if options.tiny:
        shape |= {
            "hidden_size": 64,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "intermediate_size": 128,
        }
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa"))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    if options.start:
        model.load_state_dict(load_file(options.start), strict=False)  # the head is the embedding, so it is not there
        model.tie_weights()
    return model.float().to(options.device)


def train(model: LlamaForCausalLM, options: argparse.Namespace) -> None:
    """Train until the clock or the step limit says stop."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95), eps=1e-8, fused=options.device == "cuda")
    feed = Feed(options)
    feed.take()
    start = time.monotonic()
    step = tokens = 0
    losses: list[torch.Tensor] = []
    while True:
        progress = max((time.monotonic() - start) / (60 * options.minutes), step / options.steps)
        if progress >= 1:
            break
        if progress > 1 - options.long_share and not feed.phase.value:
            feed.start_long()
        rise, fall = min(1.0, (step + 1) / options.warmup), 0.5 * (1 + math.cos(math.pi * progress))
        rate = options.rate * rise * (0.02 + 0.98 * fall)
        for group in optimizer.param_groups:
            group["lr"] = rate
        block = feed.take()
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.device == "cuda"):
            loss = batch_loss(model, block, options.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        step, tokens = step + 1, tokens + block.ids.size
        if step % options.report == 0:
            mean, losses = torch.stack(losses).mean().item(), []
            seconds = time.monotonic() - start
            print(
                f"step {step} {seconds:.0f} s loss {mean:.4f} rate {rate:.2e} {tokens / seconds:,.0f} tok/s"
                f" fresh {feed.fresh} reused {feed.reused}",
                flush=True,
            )
    feed.stop()
    print(f"trained {step} steps, {tokens:,} tokens, {(time.monotonic() - start) / 60:.2f} minutes", flush=True)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bf16 weights; the output head is the embedding, so it is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.to(torch.bfloat16).cpu().contiguous()
        for key, value in model.state_dict().items()
        if key != "lm_head.weight"
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@torch.inference_mode()
def answer(model: LlamaForCausalLM, prompts: list[list[int]], limit: int, end: int) -> list[list[int]]:
    """Greedy continuations of prompts (token ids), each at most limit tokens, without the end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=end, pad_token_id=0
    )
    rows = out[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def measure(model: LlamaForCausalLM, options: argparse.Namespace) -> None:
    """Print the share of right held answers per kind, and some wrong ones."""
    encoder = Encoder(options.hf / "tokenizer.json")
    cases = []
    for case in held.held_set():
        ids = encoder.prompt(case.talk) if case.talk else encoder.text(case.text)
        room = THOUGHT_TOKENS if case.talk and case.talk.thinking else 0
        cases.append((len(ids) > 600, len(encoder.text(case.expected)) + room, ids, case))
    cases.sort(key=lambda item: item[:2])
    cases = cases[: options.cases]
    right: dict[str, list[bool]] = defaultdict(list)
    start = time.monotonic()
    for first in range(0, len(cases), 128):
        batch = cases[first : first + 128]
        limit = max(item[1] for item in batch) + 12
        for (_, _, _, case), ids in zip(
            batch, answer(model, [item[2] for item in batch], limit, encoder.end), strict=True
        ):
            text = encoder.tokenizer.decode(ids)
            right[case.kind].append(held.grade(case, text))
            if not right[case.kind][-1]:
                prompt = case.talk.turns[-1].user if case.talk else case.text
                print(f"wrong {case.kind}: {prompt!r} -> {text[:120]!r}, not {case.expected[:120]!r}", flush=True)
        if time.monotonic() - start > options.measure_seconds:
            break
    for kind, marks in sorted(right.items()):
        print(f"{kind:18} {sum(marks):4} of {len(marks):4}")
    marks = sum(right.values(), [])
    print(f"right {sum(marks)} of {len(marks)}: {100 * sum(marks) / len(marks):.1f} %", flush=True)


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", type=Path, default=HERE / "hf", help="folder with tokenizer.json")
    parser.add_argument("--out", type=Path, default=HERE / "hf", help="where model.safetensors goes")
    parser.add_argument("--minutes", type=float, default=6.6)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=1, help="another seed trains on other text")
    parser.add_argument("--start", type=Path, help="weights to go on from instead of random ones")
    parser.add_argument(
        "--copying", type=float, default=0.0, help="share of extra documents that repeat names and values"
    )
    parser.add_argument(
        "--long-share", type=float, default=LONG_SHARE, help="last share of the time, on whole-context rows"
    )
    parser.add_argument("--warmup", type=int, default=200, help="steps over which the learning rate rises")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--report", type=int, default=200)
    parser.add_argument("--measure-seconds", type=float, default=90)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to test this script on a CPU")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    model = new_model(options)
    model.train()
    train(model, options)
    save(model, options.out)
    model.eval().to(torch.bfloat16)
    if options.cases:
        measure(model, options)


if __name__ == "__main__":
    main()
