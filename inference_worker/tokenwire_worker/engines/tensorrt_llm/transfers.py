"""How TensorRT-LLM engines fetch the KV cache of prompts from each other.

A request with `context_only` computes the prompt and the first token. What it tells makes another
engine's request `generation_only`: that one fetches the cache, and has the first token as its
first. So what chooses a token, and is not in the cache, has to be the same without a state.
"""

from __future__ import annotations

import base64
from typing import Any

from tensorrt_llm.llmapi import DisaggregatedParams

from tokenwire_worker.engines.handles import has, opened, sealed
from tokenwire_worker.engines.port import Generation

_NEEDED: dict[str, type] = {"first_gen_tokens": list, "ctx_request_id": int, "opaque_state": str}
"""What a handle tells."""


def context_only() -> Any:
    """Returns the parameters of a prompt that another engine goes on with."""
    return DisaggregatedParams(request_type="context_only")


def packed(generation: Generation, told: Any) -> bytes:
    """Returns the DisaggregatedParams of a prompt's end as a handle; empty: nobody can use it."""
    if told is None or told.ctx_request_id is None or told.opaque_state is None:
        return b""
    return sealed(
        generation,
        {
            "first_gen_tokens": list(told.first_gen_tokens or ()),
            "ctx_request_id": told.ctx_request_id,
            "opaque_state": base64.b64encode(told.opaque_state).decode(),
            "draft_tokens": told.draft_tokens,
        },
    )


def generation_only(generation: Generation) -> Any | None:
    """Returns the parameters of what goes on with a prompt; None: its handle is not one of it."""
    told = opened(generation)
    if told is None or not has(told, _NEEDED) or not told["first_gen_tokens"]:
        return None
    try:
        opaque_state = base64.b64decode(told["opaque_state"], validate=True)
    except ValueError:
        return None
    return DisaggregatedParams(
        request_type="generation_only",
        first_gen_tokens=told["first_gen_tokens"],
        ctx_request_id=told["ctx_request_id"],
        opaque_state=opaque_state,
        draft_tokens=told.get("draft_tokens"),
    )
