"""Whether the whole answer of a unary call can fit into one message."""

from __future__ import annotations

from tokenwire_service.errors import invalid

from tokenwire_frontend.core.logprobs import ALTERNATIVE_WIRE_BYTES, TOKEN_WIRE_BYTES
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.core.request import GenerationRequest, TextPrompt

ANSWER_BYTES_LIMIT = 4 * 1024 * 1024 - 64 * 1024
"""Most bytes of a unary answer's sequences: gRPC's stubs of every language take 4 MiB by default,
and usage and timings need some of it."""

TEXT_BYTES = 4
"""Of a token of English, on average."""

TOKEN_BYTES = 3 + TEXT_BYTES
"""A token on the wire: an id of a vocabulary of up to two million, and its text."""


def check_size(
    request: GenerationRequest, limits: ModelLimits, limit_bytes: int, *, prompt_tokens: int = 0
) -> None:
    """Refuses a request whose answer, if all tokens come that it asks for, does not fit.

    Where the caller has set no `max_tokens`, only what is certain counts; of the prompt, as many
    tokens as are known.

    Raises:
        InvalidRequestError: names the field to change, and the calls to use instead.
    """
    output, count = request.output, request.sequence_count
    advice = f"bytes; a whole answer has at most {limit_bytes:,}; a stream has no such bound"
    echoed, whole = 0, not request.truncate_prompt_tokens
    if output.echo and whole and isinstance(request.prompt, TextPrompt):
        echoed = len(request.prompt.text.encode()) * count
        if echoed > limit_bytes:
            raise invalid("output.echo", f"echoes {echoed:,} {advice}", reason="ANSWER_TOO_LARGE")
    tokens = request.stopping.max_tokens
    if tokens is None:
        tokens = request.stopping.min_tokens
    tokens = min(tokens, limits.context_tokens)
    token_bytes = TOKEN_BYTES
    if output.logprobs:
        token_bytes += _logprob_bytes(output.top_logprobs)
    prompt_bytes, needed = 0, echoed + tokens * token_bytes * count
    if output.prompt_logprobs is not None:
        prompt_bytes = prompt_tokens * _logprob_bytes(output.prompt_logprobs)
    if needed + prompt_bytes > limit_bytes:
        field = "output.top_logprobs" if output.top_logprobs else "stop.max_tokens"
        if prompt_bytes > needed:
            field = "output.prompt_logprobs"
        needed += prompt_bytes
        raise invalid(field, f"asks for about {needed:,} {advice}", reason="ANSWER_TOO_LARGE")


def _logprob_bytes(alternatives: int) -> int:
    return TOKEN_WIRE_BYTES + TEXT_BYTES + alternatives * (ALTERNATIVE_WIRE_BYTES + TEXT_BYTES)
