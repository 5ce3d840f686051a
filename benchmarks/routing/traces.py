"""Traces of requests: chats, prompts that share system prompts, questions on documents, and agents.

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


def documents(shape: Shape, seed: int = 3) -> list[Request]:
    """Returns single questions on one of 100 documents, by Zipf's law.

    A document has 2,000 to 7,000 tokens and stands behind the same 150 tokens of instructions as
    all others; a question has about 60, an answer about 150.
    """
    draw = random.Random(seed)
    instructions = _ids(draw, 150)
    texts = [instructions + _ids(draw, _even(draw, 2000, 7000, shape)) for _ in range(100)]
    popular = _zipf(draw, len(texts))
    found: list[Request] = []
    at_s = 0.0
    for user in range(shape.requests):
        at_s += draw.expovariate(shape.rate)
        prompt = texts[popular()] + _ids(draw, _length(draw, 60, 0.8, shape))
        answer = _ids(draw, _length(draw, 150, 0.6, shape))
        found.append(Request(at_s, prompt, answer, user))
    return found


def agents(shape: Shape, seed: int = 4) -> list[Request]:
    """Returns loops of tool calls: each step's prompt has all steps before it.

    Five kinds of agents, by Zipf's law, each with 1,500 to 3,000 tokens of instructions and tools;
    tasks of about 300 tokens, 20 steps in the mean, each a call of about 80 tokens and a result of
    about 200 that comes after 1 s in the mean.
    """
    draw = random.Random(seed)
    kinds = [_ids(draw, _even(draw, 1500, 3000, shape)) for _ in range(5)]
    popular = _zipf(draw, len(kinds))
    mean_steps, tool_s, call_s = 20, 1.0, 3.0
    found: list[Request] = []
    at_s, user = 0.0, 0
    while len(found) < shape.requests or at_s < found[shape.requests - 1].at_s:
        at_s += draw.expovariate(shape.rate / mean_steps)
        user += 1
        history, step_s = array("I", kinds[popular()]), at_s
        history += _ids(draw, _length(draw, 300, 0.8, shape))
        while True:
            call = _ids(draw, _length(draw, 80, 0.6, shape))
            if len(history) + len(call) > shape.longest:
                break
            found.append(Request(step_s, array("I", history), call, user))
            history += call + _ids(draw, _length(draw, 200, 1.0, shape))
            if draw.random() < 1 / mean_steps:
                break
            step_s += draw.expovariate(1 / tool_s) + call_s
        if len(found) >= shape.requests and user % 50 == 0:
            found.sort(key=lambda each: each.at_s)
    return sorted(found, key=lambda each: each.at_s)[: shape.requests]


TRACES: dict[str, Callable[..., list[Request]]] = {
    "chat": chat,
    "shared": shared,
    "documents": documents,
    "agents": agents,
}


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
