"""Compare a deployment's accuracy with a baseline's, as a quantised model's with its original's.

Both score the same text, from log probabilities of the prompt: perplexity, how often both find the
same token the likeliest, and the divergence over the 20 likeliest tokens and the rest. Exits with 1
where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenwire import Client
from tokenwire.cli import arguments, connection
from tokenwire.cli.failures import CommandError, describe
from tokenwire.cli.printing import print_table
from tokenwire.errors import TokenwireError
from tokenwire.evaluation import (
    ALTERNATIVES,
    Comparison,
    EvaluationError,
    WindowScores,
    compare,
    summarise,
    windows,
)
from tokenwire.types import ModelInfo, TokenLogprob

SCHEMA = "tokenwire.evaluation/1"
"""The number grows where a reader of the last form would misread the new one."""

WINDOW_TOKENS = 1024
"""Long enough that most tokens have a context, short enough that a text makes many windows."""

MOST_WINDOW_TOKENS = 8192
"""Answers of 20 alternatives for each token: two of them, as each place has, take 40 MB."""

PIECE_CHARS = 200_000
"""Of a text that is tokenised in one call; a request may have 4 MiB."""

_ABILITY = "prompt_logprobs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "--baseline",
        required=True,
        type=arguments.target,
        metavar="HOST:PORT",
        help="the frontend to compare --target with",
    )
    parser.add_argument(
        "--text",
        required=True,
        metavar="FILE",
        help="UTF-8 text of your own use; -: standard input",
    )
    parser.add_argument("--model", default="", help="the target's; default: the only one")
    parser.add_argument("--baseline-model", default="", help="likewise of the baseline")
    parser.add_argument(
        "--window",
        type=arguments.whole_number(2, MOST_WINDOW_TOKENS),
        metavar="TOKENS",
        help=f"tokens of a prompt; default: {WINDOW_TOKENS}, or less where a model takes less",
    )
    parser.add_argument(
        "--tokens",
        type=arguments.whole_number(2, arguments.UINT32),
        help="most tokens of the text to score; default: all",
    )
    parser.add_argument(
        "--concurrency",
        type=arguments.whole_number(1, 16),
        default=4,
        help="windows at once; default: %(default)s",
    )
    parser.add_argument(
        "--limit",
        type=arguments.number,
        default=1.0,
        metavar="PERCENT",
        help="most that the perplexity may rise; default: %(default)s",
    )
    parser.add_argument(
        "--agreement-limit",
        type=arguments.number,
        metavar="PERCENT",
        help="least share of tokens with the same likeliest one; default: none",
    )
    parser.add_argument(
        "--divergence-limit",
        type=arguments.number,
        metavar="NATS",
        help="most divergence per token; default: none",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")


def run(client: Client, args: argparse.Namespace) -> None:
    """Scores the text at both deployments, prints the comparison and judges it."""
    if args.json is not None and not args.json.parent.is_dir():
        raise ValueError(f"--json: {args.json.parent} is not a folder")
    text = _read(args.text)
    with connection.client(args, args.baseline) as other:
        target = _Side("target", client, args.target, args.model)
        baseline = _Side("baseline", other, args.baseline, args.baseline_model)
        prompts = _prompts(target, baseline, text, args)
        found = summarise(list(_scores(target, baseline, prompts, args.concurrency)))
    _print(found)
    if args.json is not None:
        args.json.write_text(
            json.dumps(_result(found, target, baseline, args), indent=1) + "\n", encoding="utf-8"
        )
    passed = list(_passed(found, args))
    if passed:
        raise CommandError(f"evaluate: {'; '.join(passed)}")


@dataclass
class _Side:
    """One of the two deployments; what fails there names it."""

    name: str
    client: Client
    address: str
    model_name: str

    def model(self) -> ModelInfo:
        """Returns the model; a CommandError where it can't score a prompt."""
        model: ModelInfo = self._call(self.client.model, self.model_name)
        if _ABILITY not in model.capabilities:
            raise CommandError(
                f"{self.name}: the engine of {model.name} does not offer log probabilities of the "
                "prompt (prompt_logprobs)"
            )
        return model

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Returns a text's token ids."""
        tokens = self._call(
            self.client.tokenize, text, model=self.model_name, add_special_tokens=special
        )
        return list(tokens.token_ids)

    def score(self, prompt: list[int]) -> list[TokenLogprob]:
        """Returns what the deployment makes of each token of a prompt."""
        answer = self._call(
            self.client.generate,
            prompt,
            model=self.model_name,
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=ALTERNATIVES,
        )
        return list(answer.prompt_logprobs)

    def _call(self, method: Any, *values: Any, **options: Any) -> Any:
        try:
            return method(*values, **options)
        except TokenwireError as error:
            if self.name == "target":  # as every command's
                raise
            raise CommandError(f"{self.name}: {describe(error, self.address)}") from error


def _read(source: str) -> str:
    if source == "-":
        return arguments.text("-")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--text: {source} is not UTF-8 text") from None


def _prompts(
    target: _Side, baseline: _Side, text: str, args: argparse.Namespace
) -> list[list[int]]:
    """Returns the windows of the text, after having checked that both sides read it alike."""
    models = [target.model(), baseline.model()]
    if len({each.tokenizer_fingerprint for each in models}) > 1:
        raise CommandError(
            f"the tokenizers of {models[0].name} and {models[1].name} differ: "
            "perplexities of different tokens can't be compared"
        )
    # One token of output has room beside the prompt.
    most = min(min(each.prompt_tokens_limit, each.context_tokens - 1) for each in models)
    if args.window is not None and args.window > most:
        raise ValueError(f"--window: {args.window}; at most {most} with these models")
    pieces = list(_pieces(text))
    plain = [target.ids(piece, special=False) for piece in pieces]
    first = target.ids(pieces[0], special=True) if pieces else []
    # What the tokenizer puts before a text; one that puts something after it has no place here.
    prefix = (
        first[: len(first) - len(plain[0])]
        if pieces and first[-len(plain[0]) :] == plain[0]
        else []
    )
    ids = [token_id for each in plain for token_id in each][: args.tokens]
    return list(windows(prefix, ids, args.window or min(WINDOW_TOKENS, most)))


def _pieces(text: str) -> Iterator[str]:
    """Cuts a text at line ends where it has some, so that no word is cut in two."""
    while text:
        end = len(text) if len(text) <= PIECE_CHARS else text.rfind("\n", 0, PIECE_CHARS) + 1
        end = end or PIECE_CHARS
        yield text[:end]
        text = text[end:]


def _scores(
    target: _Side, baseline: _Side, prompts: list[list[int]], concurrency: int
) -> Iterator[WindowScores]:
    """Scores window after window, several at once, and says how far it has come."""

    def score(prompt: list[int]) -> WindowScores:
        try:
            return compare(target.score(prompt), baseline.score(prompt))
        except EvaluationError as error:
            raise CommandError(f"evaluate: {error}") from error

    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from _shown(pool.map(score, prompts), len(prompts))
    finally:
        pool.shutdown(cancel_futures=True)


def _shown(scores: Iterable[WindowScores], count: int) -> Iterator[WindowScores]:
    """Says how far the windows have come: at a terminal each time, elsewhere ten times."""
    live = sys.stderr.isatty()
    for number, each in enumerate(scores, 1):
        line = f"window {number:,} of {count:,}"
        if live:
            print(
                f"\r\x1b[K{line}" if number < count else "\r\x1b[K",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif number * 10 // count > (number - 1) * 10 // count:
            print(line, file=sys.stderr, flush=True)
        yield each


def _print(found: Comparison) -> None:
    noise = found.perplexity_rise_noise
    spread = "" if noise is None else f" (+-{noise:.2%})"
    print_table(
        ("FIGURE", "BASELINE", "TARGET", "DIFFERENCE"),
        [
            (
                "perplexity",
                f"{found.baseline_perplexity:.4f}",
                f"{found.target_perplexity:.4f}",
                f"{found.perplexity_rise:+.2%}{spread}",
            ),
            ("same likeliest token", "", "", f"{found.top_1_agreement:.2%}"),
            ("divergence, nats/token", "", "", f"{found.divergence_nats:.5f}"),
        ],
    )
    print(f"{found.tokens:,} tokens in {found.windows:,} windows")


def _passed(found: Comparison, args: argparse.Namespace) -> Iterator[str]:
    """Yields each limit that is passed, and notes where the text is too short to tell."""
    noise = found.perplexity_rise_noise
    if noise is None or noise > args.limit / 100:
        print(
            f"note: the text is too short to tell a rise of {args.limit:g} % from noise",
            file=sys.stderr,
        )
    if found.perplexity_rise > args.limit / 100:
        yield f"the perplexity rises by {found.perplexity_rise:.2%}; at most {args.limit:g} %"
    least, most = args.agreement_limit, args.divergence_limit
    if least is not None and found.top_1_agreement < least / 100:
        yield f"the likeliest tokens agree in {found.top_1_agreement:.2%}; at least {least:g} %"
    if most is not None and found.divergence_nats > most:
        yield f"the divergence is {found.divergence_nats:.5f} nats per token; at most {most:g}"


def _result(
    found: Comparison, target: _Side, baseline: _Side, args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "target": target.address,
        "baseline": baseline.address,
        "limit": args.limit / 100,
        "passed": found.perplexity_rise <= args.limit / 100,
        **asdict(found),
    }
