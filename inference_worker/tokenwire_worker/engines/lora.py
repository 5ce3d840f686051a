"""The setting that names LoRA adapters, the same for every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from tokenwire_service.limits import LORA_ADAPTERS, NAME_CHARACTERS


def _check(adapters: dict[str, Path]) -> dict[str, Path]:
    if len(adapters) > LORA_ADAPTERS:
        raise ValueError(f"names {len(adapters)} adapters; at most {LORA_ADAPTERS}")
    longest = max(adapters, key=len, default="")
    if len(longest) > NAME_CHARACTERS:
        raise ValueError(
            f"{longest[:40]}... has {len(longest)} characters; a name has at most {NAME_CHARACTERS}"
        )
    return adapters


LoraAdapters = Annotated[dict[str, Path], AfterValidator(_check)]
"""Files by name; frontends refuse a worker that describes more or longer ones."""
