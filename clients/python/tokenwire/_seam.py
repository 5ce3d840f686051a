"""Where a sequence's output goes on in another stream: nothing comes twice, and nothing is missing.

The other frontend begins after the ids that it was given, with the text that is certain after them,
which is all that a delta with these ids had. So the offsets most often meet exactly. What comes
again is dropped if it is the same; anything else is a fault that must not go unseen.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenwire.frontend.v1 import generation_pb2


class Seam:
    """The places of one sequence's text, reasoning and calls.

    Args:
        text: what came of the text.
        reasoning: what came of the reasoning.
        arguments: what came of each call's arguments, by the call's index.
        is_repeated: the text comes again from its beginning, an echoed prompt included.
        echoes: the text began with a prompt, which the offsets do not count.
        ends: where what came ends, of a sequence of which only a part came: of `text`, `reasoning`
            and each call's index, in bytes of the whole. None: what came is all from its first id.
    """

    def __init__(
        self,
        text: str,
        reasoning: str,
        arguments: Mapping[int, str],
        *,
        is_repeated: bool,
        echoes: bool,
        ends: Mapping[str | int, int] | None,
    ) -> None:
        self._ends = ends
        end = None if echoes and ends is None else self._end("text", text)
        self._text = _Place("text", text, end, is_repeated=is_repeated)
        self._reasoning = _Place("reasoning", reasoning, self._end("reasoning", reasoning))
        self._calls = {index: self._call(index, came) for index, came in arguments.items()}

    def _call(self, index: int, came: str) -> _Place:
        return _Place(f"tool call {index}", came, self._end(index, came))

    def _end(self, name: str | int, came: str) -> int | None:
        return len(came.encode()) if self._ends is None else self._ends.get(name)

    def trim(self, delta: generation_pb2.Delta) -> None:
        """Drops from a delta what came before.

        Raises:
            ValueError: something is missing before it, or what came again is not the same.
        """
        if delta.text:
            delta.text, delta.text_offset = self._text.fit(delta.text, delta.text_offset)
        if delta.reasoning:
            delta.reasoning, delta.reasoning_offset = self._reasoning.fit(
                delta.reasoning, delta.reasoning_offset
            )
        for call in delta.tool_calls:
            place = self._calls.get(call.index)
            if place is None:
                place = self._calls[call.index] = self._call(call.index, "")
            elif call.id:
                raise ValueError(f"tool call {call.index} began again")
            if call.arguments:
                call.arguments, call.arguments_offset = place.fit(
                    call.arguments, call.arguments_offset
                )


class _Place:
    """How far one run of text has come, in UTF-8 bytes."""

    def __init__(self, name: str, came: str, end: int | None, *, is_repeated: bool = False) -> None:
        self._name = name
        self._came = bytearray(came.encode())
        self._again = bytes(self._came) if is_repeated else b""
        """What is still to come again."""
        self._offset = None if self._again else end
        """None: the next piece's own."""

    def fit(self, text: str, offset: int) -> tuple[str, int]:
        """Returns what is new of a piece, and its offset; raises as `Seam.trim`."""
        raw = text.encode()
        if self._again:
            again, self._again = self._again[: len(raw)], self._again[len(raw) :]
            new = self._after(again, raw)
            self._came += new
            return new.decode(), offset
        if self._offset is None:
            self._offset = offset
        known = self._offset - offset
        if known < 0:
            raise ValueError(f"{self._name} went on at byte {offset} after {self._offset} bytes")
        if known:
            raw = self._after(bytes(self._came[-known:])[: len(raw)], raw)
        began = self._offset
        self._came += raw
        self._offset += len(raw)
        return raw.decode(), began

    def _after(self, again: bytes, raw: bytes) -> bytes:
        if not raw.startswith(again):
            raise ValueError(f"{self._name} that came again is not the same")
        return raw[len(again) :]
