"""Traces of requests: chats of several turns, and prompts that share system prompts.

Lengths, popularity and times are drawn from distributions like those of recorded traces, with a
seed, so that a trace is the same each time. It does not depend on who serves it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass

VOCABULARY = 4096
"""Ids run below this; small enough for the demo model's tokenizer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    at_s: float
    prompt: array[int]
    output: array[int]
    """What the model answers."""
    user: int
    """The conversation; a frontend has all requests of a connection, which a user may change."""


@dataclass(frozen=True)
class Shape:
    """How large a trace is."""

    requests: int
    rate: float
    """Requests a second."""
    longest: int = 8192
    """Most tokens of prompt and output together: a chat that reaches it ends."""
    scale: float = 1.0
    """By which all lengths are multiplied."""


def chat(shape: Shape, seed: int = 1) -> list[Request]:
    """Returns chats: each turn's prompt is the chat so far, its answers included.

    20 system prompts of 200 to 1,200 tokens, by Zipf's law; 7 turns in the mean of about 60 tokens,
    answered with about 200; 12 s from turn to turn, half of which a model needs for its answer.
    """
    draw = random.Random(seed)
    systems = [_ids(draw, _even(draw, 200, 1200, shape)) for _ in range(20)]
    popular = _zipf(draw, len(systems))
    mean_turns, gap_s = 7, 12.0
    found: list[Request] = []
    at_s, user = 0.0, 0
    # Chats begin as fast as they end once there are enough.
    while len(found) < shape.requests or at_s < found[shape.requests - 1].at_s:
        at_s += draw.expovariate(shape.rate / mean_turns)
        user += 1
        history, turn_s = array("I", systems[popular()]), at_s
        while True:
            history += _ids(draw, _length(draw, 60, 0.8, shape))
            answer = _ids(draw, _length(draw, 200, 0.6, shape))
            if len(history) + len(answer) > shape.longest:
                break
            found.append(Request(turn_s, array("I", history), answer, user))
            history += answer
            if draw.random() < 1 / mean_turns:
                break
            turn_s += draw.expovariate(1 / gap_s) + gap_s / 2
        if len(found) >= shape.requests and user % 50 == 0:
            found.sort(key=lambda each: each.at_s)
    return sorted(found, key=lambda each: each.at_s)[: shape.requests]


def shared(shape: Shape, seed: int = 2) -> list[Request]:
    """Returns single questions behind one of 200 system prompts, by Zipf's law.

    A system prompt has 500 to 3,000 tokens and begins with the same 40 as all others; a question
    has about 100, an answer about 200.
    """
    draw = random.Random(seed)
    opening = _ids(draw, 40)
    systems = [opening + _ids(draw, _even(draw, 500, 3000, shape)) for _ in range(200)]
    popular = _zipf(draw, len(systems))
    found: list[Request] = []
    at_s = 0.0
    for user in range(shape.requests):
        at_s += draw.expovariate(shape.rate)
        prompt = systems[popular()] + _ids(draw, _length(draw, 100, 0.8, shape))
        answer = _ids(draw, _length(draw, 200, 0.6, shape))
        found.append(Request(at_s, prompt, answer, user))
    return found


TRACES: dict[str, Callable[..., list[Request]]] = {"chat": chat, "shared": shared}


def _ids(draw: random.Random, count: int) -> array[int]:
    return array("I", (each % VOCABULARY for each in array("H", draw.randbytes(2 * count))))


def _even(draw: random.Random, least: int, most: int, shape: Shape) -> int:
    return max(int(draw.randrange(least, most) * shape.scale), 1)


def _length(draw: random.Random, median: int, spread: float, shape: Shape) -> int:
    """Returns a length of a log-normal distribution, at most ten times its median."""
    drawn = min(draw.lognormvariate(0, spread), 10) * median
    return max(int(drawn * shape.scale), 1)


def _zipf(draw: random.Random, count: int) -> Callable[[], int]:
    """Returns a function that draws 0 to `count` less one: the n-th 1/n as often as the first."""
    weights = [1 / (place + 1) for place in range(count)]
    total, sums = 0.0, []
    for each in weights:
        total += each
        sums.append(total)
    places = range(count)
    return lambda: draw.choices(places, cum_weights=sums)[0]
