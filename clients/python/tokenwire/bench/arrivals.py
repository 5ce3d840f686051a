"""When the requests of an open loop start, and traces of requests read from a file.

Every load process computes the whole schedule and takes its share of it, so that the schedule does
not depend on how many processes there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from tokenwire.bench.plan import Arrivals

TRACE_LINES = 1_000_000
"""Most requests of a trace: each load process holds them all, at some 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of an open loop."""

    number: int
    """From 0, over all load processes."""
    at_s: float
    """From the begin of the phase."""
    entry: TraceEntry | None = None
    """What the trace says of it."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One request of a trace."""

    at_s: float
    """From the trace's first request."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    text: str | None = None
    """The prompt itself; else one of `input_tokens` is made."""


def starts(arrivals: Arrivals, seed: int, index: int, processes: int) -> Iterator[Start]:
    """Yields the starts of one of several load processes, in order, without end but of a trace."""
    return islice(_all(arrivals, seed), index, None, processes)


def _all(arrivals: Arrivals, seed: int) -> Iterator[Start]:
    if arrivals.kind == "replay":
        for number, entry in enumerate(read_trace(arrivals.trace)):
            yield Start(number, entry.at_s / arrivals.speed, entry)
        return
    random = Random(f"{seed}/arrivals")  # noqa: S311 - repeatable, not secret
    at_s, number = 0.0, 0
    while True:
        if arrivals.kind == "poisson":
            at_s += random.expovariate(arrivals.rate_per_s)
        else:
            at_s = number / arrivals.rate_per_s
        yield Start(number, at_s)
        number += 1


def read_trace(path: str) -> list[TraceEntry]:
    """Returns a trace's requests by time, the first at 0.

    Each line is a JSON object: `at_s` (seconds) or `timestamp` (milliseconds); `input_tokens` or
    `input_length`; `output_tokens` or `output_length`; `text`. All but the time may be missing.

    Raises:
        ValueError: the file cannot be read, or a line is not a request; the message names the line.
    """
    found = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if number > TRACE_LINES:
                    raise ValueError(f"{path}: more than {TRACE_LINES:,} lines")
                if line.strip():
                    found.append(_entry(f"{path}:{number}", line))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if not found:
        raise ValueError(f"{path}: the trace has no request")
    found.sort(key=lambda entry: entry.at_s)
    begin_s = found[0].at_s
    return [
        TraceEntry(each.at_s - begin_s, each.input_tokens, each.output_tokens, each.text)
        for each in found
    ]


def _entry(place: str, line: str) -> TraceEntry:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{place}: not a JSON object")  # noqa: TRY004 - of the file
    at_s = _one_of(place, given, ("at_s", 1.0), ("timestamp", 0.001))
    if at_s is None:
        raise ValueError(f"{place}: at_s (seconds) or timestamp (milliseconds) is required")
    input_tokens = _one_of(place, given, ("input_tokens", 1), ("input_length", 1))
    output_tokens = _one_of(place, given, ("output_tokens", 1), ("output_length", 1))
    text = given.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{place}: text: not a text")
    return TraceEntry(at_s, _count(input_tokens), _count(output_tokens), text)


def _one_of(place: str, given: dict[str, Any], *names: tuple[str, float]) -> float | None:
    for name, scale in names:
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{place}: {name}: not a number of at least 0")
        return value * scale
    return None


def _count(value: float | None) -> int | None:
    return None if value is None else max(1, round(value))
