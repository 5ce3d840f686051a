"""A served model, built from the text files that its worker sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwire_frontend.core.model import ModelLimits, SamplingDefaults
from tokenwire_frontend.models.chat_template import ChatTemplateError
from tokenwire_frontend.models.tokenizer import Tokenizer

GENERATION_CONFIG_FILE = "generation_config.json"


class ModelFilesError(Exception):
    """A model's text files can't be used; the message says which, and why."""


@dataclass
class Model:
    """A model that some worker serves, or has served."""

    name: str
    tokenizer: Tokenizer
    defaults: SamplingDefaults
    limits: ModelLimits
    """What all its ready workers can serve; while none is, what the last ones could."""
    ready_workers: int = 0


def build_model(name: str, files: Mapping[str, bytes], limits: ModelLimits) -> Model:
    """Builds a model from the contents of its files by name. Takes long: run it off the loop.

    Raises:
        ModelFilesError: the files can't be used.
    """
    try:
        tokenizer = Tokenizer(files)
        config = json.loads(files.get(GENERATION_CONFIG_FILE, b"{}"))
        defaults = SamplingDefaults.from_generation_config(config)
    except (KeyError, ValueError, ChatTemplateError) as error:
        raise ModelFilesError(f"its tokenizer files can't be used: {error!r}") from error
    except Exception as error:
        raise ModelFilesError(f"its tokenizer.json can't be used: {error}") from error
    return Model(name, tokenizer, defaults, limits)
