"""A served model, built from the text files that its worker sends."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenwire_frontend.core.model import ModelLimits, SamplingDefaults
from tokenwire_frontend.models.files import check_fingerprint
from tokenwire_frontend.models.output_formats import OutputFormats, ParserNames
from tokenwire_frontend.models.tokenizer import Tokenizer, read_tokenizer
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool


@dataclass(weakref_slot=True, slots=True)
class Model:
    """A model that some worker serves, or has served."""

    name: str
    key: str
    """What the TokenizerPool knows it by."""
    fingerprint: str
    """SHA-256 of tokenizer.json, 64 lower-case hex digits."""
    tokenizer: Tokenizer
    has_chat_template: bool
    defaults: SamplingDefaults
    formats: OutputFormats
    limits: ModelLimits
    """What all its ready workers can serve; while none is, what the last ones could."""
    ready_workers: int = 0
    left_s: float = field(default_factory=time.monotonic)
    """time.monotonic() when its last ready worker was lost, or, before the first, of its making."""


async def build_model(
    pool: TokenizerPool,
    name: str,
    files: Mapping[str, bytes],
    limits: ModelLimits,
    fingerprint: str,
    parsers: ParserNames,
) -> Model:
    """Builds a model from the contents of its files by name, aside from what runs.

    Args:
        pool: builds and holds the tokenizer.
        name: the model's.
        files: contents by name.
        limits: the worker's.
        fingerprint: SHA-256 of tokenizer.json as the worker names it.
        parsers: what the settings say of parsers.

    Raises:
        ModelFilesError: the files can't be used.
    """
    await asyncio.get_running_loop().run_in_executor(None, check_fingerprint, files, fingerprint)
    key, told = await pool.load(files)
    tokenizer = await read_tokenizer(told["tokenizer"])
    model = Model(
        name,
        key,
        fingerprint,
        tokenizer,
        told["has_chat_template"],
        SamplingDefaults(**told["defaults"]),
        OutputFormats(parsers, told["formats"], told["formats_config"], tokenizer.special_tokens),
        limits,
    )
    weakref.finalize(model, pool.forget, key)
    return model
