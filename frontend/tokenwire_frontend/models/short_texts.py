"""Short texts, encoded on the event loop: a process takes longer to be told than to encode.

Building an encoder holds the GIL while tokenizer.json is parsed, about 10 ms for each MiB. So a
large one is built only where no stream can be in the way of that: for the only model.
"""

from __future__ import annotations

import asyncio
from array import array
from functools import partial

import structlog
from tokenwire_service.tasks import Supervisor

from tokenwire_frontend.models.fast_encoder import SHORT_CHARS, FastEncoder, NotFastError

PARSED_AT_ANY_TIME_CHARS = 2**20
"""Of a tokenizer.json: its parsing holds the event loop for about 10 ms."""

log = structlog.get_logger()


class ShortTexts:
    """The encoders of this process, by the key of the model.

    Args:
        supervisor: owns the tasks that build them.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._encoders: dict[str, FastEncoder | None] = {}
        """None while it is being built."""

    def take(self, key: str, source: str, *, alone: bool) -> None:
        """Begins to build a model's encoder in a thread; until it is there `encode` has no ids.

        Args:
            key: the model's.
            source: tokenizer.json, which a tokenizer process has built and checked.
            alone: whether it is the only model.
        """
        if alone or len(source) <= PARSED_AT_ANY_TIME_CHARS:
            self._encoders[key] = None
            self._supervisor.keep("short_texts", partial(self._build, key, source))

    def forget(self, key: str) -> None:
        """Lets go of a model."""
        self._encoders.pop(key, None)

    def has(self, key: str) -> bool:
        """Tells whether the model's encoder is there."""
        return self._encoders.get(key) is not None

    def encode(self, key: str, text: str, *, add_special_tokens: bool) -> array[int] | None:
        """Returns the ids, or None where the text is for a tokenizer process."""
        if len(text) > SHORT_CHARS:
            return None
        encoder = self._encoders.get(key)
        if encoder is None:
            return None
        try:
            return encoder.encode(text, add_special_tokens)
        except NotFastError:
            return None

    async def _build(self, key: str, source: str) -> None:
        try:
            encoder = await asyncio.get_running_loop().run_in_executor(None, _built, source)
        except NotFastError as error:
            log.warning("short_texts_refused", reason=str(error))
            return
        if key in self._encoders:
            self._encoders[key] = encoder


def _built(source: str) -> FastEncoder:
    encoder = FastEncoder(source)
    encoder.encode("The first text takes 10 to 40 ms longer.", add_special_tokens=False)
    return encoder
