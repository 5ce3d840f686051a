"""What engines in general can't go on with after output that they read as a part of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_worker.engines.port import Generation, Sampling

_NEUTRAL = Sampling()


def fields_with_state(generation: Generation, counting: Sequence[str] = ()) -> list[str]:
    """Returns the fields that bring state which the engine makes only while it generates.

    A guide has its place in the form, and a seed the random numbers that were drawn. Without a seed
    any numbers will do, and greedy decoding draws none.

    Args:
        generation: what is to go on.
        counting: fields of Sampling that count the output, where the engine counts the tokens that
            it has generated itself alone.
    """
    sampling = generation.sampling
    found = ["guide"] if generation.guide is not None else []
    if sampling.seed is not None and sampling.temperature > 0:
        found.append("sampling.seed")
    found += [
        f"sampling.{name}"
        for name in counting
        if getattr(sampling, name) != getattr(_NEUTRAL, name)
    ]
    return found


def begun_bans(generation: Generation) -> list[str]:
    """Returns the banned sequences of which the carried tokens end with a beginning.

    An engine that looks for these among its own tokens alone would let the rest of one follow.
    """
    output = list(generation.prompt[len(generation.prompt) - generation.carried_tokens :])
    return [
        f"sampling.banned_sequences[{at}]"
        for at, banned in enumerate(generation.sampling.banned_sequences)
        if any(
            tuple(output[-length:]) == banned[:length]
            for length in range(1, min(len(banned) - 1, len(output)) + 1)
        )
    ]
