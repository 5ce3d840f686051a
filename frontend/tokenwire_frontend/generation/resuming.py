"""What lets a generation go on elsewhere: the output so far, and choices that can be repeated."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace

from tokenwire_service.errors import invalid

from tokenwire_frontend.core.decoder import SequenceDecoder
from tokenwire_frontend.core.model import SamplingDefaults
from tokenwire_frontend.core.request import GenerationRequest, SoFar
from tokenwire_frontend.models.token_ids import read_ids

SLICE_IDS = 512
"""Ids that are decoded before others run: some 5 ms where they are parsed."""

SEED_BITS = 63


async def resume(
    decoders: Sequence[SequenceDecoder], so_far: Sequence[SoFar], vocabulary_size: int
) -> None:
    """Brings fresh decoders to where the output that exists has left others.

    What these write is a function of the request and the ids, so the same ids are enough.

    Raises:
        InvalidRequestError: an id that the vocabulary lacks, or that comes after a stop.
    """
    for index, (decoder, given) in enumerate(zip(decoders, so_far, strict=True)):
        field = f"output_so_far[{index}].token_ids"
        ids = await read_ids(given.token_ids, vocabulary_size, field)
        for start in range(0, len(ids), SLICE_IDS):
            if start:
                await asyncio.sleep(0)
            decoder.push(ids[start : start + SLICE_IDS])
        count = decoder.log.token_count
        if count < len(ids):
            raise invalid(f"{field}[{count}]", "comes after the id that ends the sequence")
        decoder.log.resume(ended=given.ended)


def pinned(request: GenerationRequest, defaults: SamplingDefaults) -> GenerationRequest:
    """Returns the request with a seed, where only one makes it repeatable.

    Without one, output that a worker can't carry (a guide's state, penalties' counts) could not be
    generated again after the worker is lost.
    """
    sampling = request.sampling
    temperature = defaults.temperature if sampling.temperature is None else sampling.temperature
    if sampling.seed is not None or temperature == 0:
        return request
    repetition = sampling.repetition_penalty or defaults.repetition_penalty
    counted = repetition != 1 or sampling.presence_penalty or sampling.frequency_penalty
    if not (request.guide or counted or sampling.banned_words):
        return request
    return replace(request, sampling=replace(sampling, seed=secrets.randbits(SEED_BITS)))
