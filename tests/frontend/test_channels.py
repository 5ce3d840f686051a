"""Text, reasoning and tool calls of one log: told apart whatever the size of the deltas."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire_frontend.core.channels import Channel, Piece
from tokenwire_frontend.core.fast_path import Cursor
from tokenwire_frontend.core.log import Delta, End, Finish, SequenceLog
from tokenwire_frontend.edge.grpc.to_proto import put_delta

LEAST_BYTES = 8 * 1024
SAID = st.tuples(
    st.sampled_from(["", "a", "é", "漢", "😀", "a😀漢é"]), st.sampled_from([1, 3, 100, 9_000])
).map(lambda part: part[0] * part[1])


def wire_bytes(delta: Delta) -> int:
    event = pb.SessionEvent(id=2**32 - 1)
    put_delta(delta, event.delta)
    return pb.SessionResponse(events=[event]).ByteSize()


@dataclass
class Told:
    """What deltas say, put together; each is checked to go on where the last has ended."""

    log: SequenceLog
    max_bytes: int
    cursor: Cursor
    ids: list[int] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)
    arguments: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    end: End | None = None

    def read(self) -> bool:
        delta = self.log.slice(self.cursor, self.max_bytes)
        if delta is None:
            return False
        assert wire_bytes(delta) <= delta.wire_bytes <= self.max_bytes
        assert delta.token_offset == len(self.ids)
        assert delta.text_offset == len(self.text.encode())
        assert delta.reasoning_offset == len(self.reasoning.encode())
        self.ids += delta.token_ids
        self.text += delta.text
        self.reasoning += delta.reasoning
        for call in delta.calls:
            if call.name:
                assert call.index not in self.calls, "a call begins once"
                self.calls[call.index] = (call.id, call.name)
            assert call.index in self.calls, "a call begins before its arguments"
            assert call.arguments_offset == len(self.arguments[call.index].encode())
            self.arguments[call.index] += call.arguments
        self.end = delta.end
        return True


@st.composite
def outputs(draw: st.DrawFn) -> list[tuple[int, list[Piece]]]:
    """Ids and the pieces that come with each run of them."""
    calls, steps = 0, []
    for _ in range(draw(st.integers(1, 12))):
        pieces = []
        for _ in range(draw(st.integers(0, 4))):
            kind = draw(st.sampled_from(["text", "reasoning", "open", "call"]))
            if kind == "open":
                name = "n" + draw(SAID)[:256]
                pieces.append(Piece(Channel.CALL, call=calls, opens=(f"id{calls}", name)))
                calls += 1
            elif kind == "call" and calls:
                call = draw(st.integers(0, calls - 1))
                pieces.append(Piece(Channel.CALL, draw(SAID), call))
            elif kind != "call":
                pieces.append(Piece(Channel(kind), draw(SAID)))
        steps.append((draw(st.sampled_from([1, 2, 700])), pieces))
    return steps


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    steps=outputs(),
    tail=SAID,
    sizes=st.tuples(*[st.sampled_from([LEAST_BYTES, 10_000, 1 << 20])] * 2),
    reads=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_every_reader_is_told_each_channel_whole_and_once(steps, tail, sizes, reads):
    log = SequenceLog(0)
    readers = [Told(log, size, log.start()) for size in sizes]
    said, names, count = defaultdict(str), {}, 0
    for (size, pieces), reads_now in zip(steps, reads, strict=False):
        log.append(range(count, count + size), "", pieces=pieces)
        count += size
        for piece in pieces:
            said[piece.channel, piece.call] += piece.text
            if piece.opens:
                names[piece.call] = piece.opens
        readers[0].read()
        if reads_now:
            readers[1].read()
        log.trim(min((each.cursor for each in readers), key=attrgetter("token", "text")))
    log.close("", End(Finish.TOOL_CALLS), [Piece(Channel.TEXT, tail)])
    for told in readers:
        while told.read():
            log.trim(min((each.cursor for each in readers), key=attrgetter("token", "text")))
        assert told.ids == list(range(count))
        assert told.text == said[Channel.TEXT, 0] + tail
        assert told.reasoning == said[Channel.REASONING, 0]
        assert told.calls == names
        assert all(told.arguments[call] == said[Channel.CALL, call] for call in names)
        assert told.end == End(Finish.TOOL_CALLS)
