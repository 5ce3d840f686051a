"""The prompts that a model is calibrated with: a user's own, from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

Prompt: TypeAlias = "str | list[dict[str, Any]]"
"""A text, or the messages of a chat."""

MOST_BYTES = 256 * 1024 * 1024
"""Of a file, which is read whole; 512 prompts are a few megabytes."""

HELD_OUT = 64
"""Most prompts that calibration does not see, to compare the model before and after with."""


BATCH_TOKENS = 4096
"""Most tokens that are computed at once: enough that a GPU's time goes to arithmetic rather than to
the start of its kernels, and few enough that the scores of a large vocabulary take about a GB."""


class PromptsError(ValueError):
    """The file cannot be read, or a line is not a prompt."""


def read(path: Path) -> list[Prompt]:
    """Returns a file's prompts, each once, in their order.

    A file that ends in .jsonl has an object in each line: `text`, `prompt` or `messages`. Any other
    is a text, each line of which is a prompt.

    Raises:
        PromptsError: names the line at fault.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PromptsError(f"{path} is larger than {MOST_BYTES // 2**20} MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PromptsError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise PromptsError(f"{path}: {error.strerror}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    # Prompts that come again would count several times, and calibrate nothing.
    distinct = dict.fromkeys(line for _, line in numbered)
    if path.suffix != ".jsonl":
        return list(distinct)
    places = {line: number for number, line in reversed(numbered)}
    return [_parsed(line, f"{path}:{places[line]}") for line in distinct]


def chosen(prompts: Sequence[Prompt], samples: int) -> tuple[list[Prompt], list[Prompt]]:
    """Returns the prompts to calibrate with and those that are held out, at most 64.

    Both are spread evenly over the file, whose order may be by topic or by time.
    """
    calibrated = set(_spread(len(prompts), samples))
    rest = [each for number, each in enumerate(prompts) if number not in calibrated]
    return (
        [prompts[number] for number in sorted(calibrated)],
        [rest[number] for number in _spread(len(rest), HELD_OUT)],
    )


def batches(prompts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Yields prompts of one length together, the longest first, up to 4,096 tokens at once.

    Padding would make others fit, and give the model activations that no request will ever have.
    """
    for length, alike in groupby(sorted(prompts, key=len, reverse=True), key=len):
        equal, most = list(alike), max(1, BATCH_TOKENS // length)
        for begin in range(0, len(equal), most):
            yield equal[begin : begin + most]


def _spread(count: int, most: int) -> Iterator[int]:
    """Yields up to `most` of the numbers below `count`, evenly."""
    wanted = min(count, most)
    for place in range(wanted):
        yield place * count // wanted


def _parsed(line: str, place: str) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise PromptsError(f"{place} is not JSON: {error}") from None
    given = [
        key for key in ("text", "prompt", "messages") if isinstance(value, dict) and key in value
    ]
    if len(given) != 1:
        raise PromptsError(f"{place} is not an object with one of text, prompt and messages")
    found = value[given[0]]
    if given[0] != "messages":
        if not isinstance(found, str) or not found:
            raise PromptsError(f"{place}: {given[0]} is not a text")
        return found
    if not found or not isinstance(found, list) or not all(map(_is_message, found)):
        raise PromptsError(f"{place}: messages is not a list of objects with role and content")
    return found


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value
