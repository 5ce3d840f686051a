"""The events of one generation as they came, and what must hold of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from tokenwire.conformance.rule import Broken, expect
from tokenwire.frontend.v1 import generation_pb2

Event = generation_pb2.StreamGenerateResponse | generation_pb2.SessionEvent


class Answer:
    """The events of one generation; nothing is assumed of their order or number."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.kinds = [event.WhichOneof("event") or "nothing" for event in events]

    @property
    def accepted(self) -> generation_pb2.Accepted:
        """The acceptance; raises Broken where none came."""
        return self._event("accepted").accepted

    @property
    def completed(self) -> generation_pb2.Completed:
        """The completion; raises Broken where none came."""
        return self._event("completed").completed

    def _event(self, kind: str) -> Event:
        for event, each in zip(self.events, self.kinds, strict=True):
            if each == kind:
                return event
        raise Broken(f"no `{kind}` came, but {', '.join(self.kinds) or 'nothing'}")

    @property
    def deltas(self) -> list[generation_pb2.Delta]:
        """The deltas of all sequences."""
        return [event.delta for event in self.events if event.HasField("delta")]

    @property
    def prompt_logprobs(self) -> list[generation_pb2.PromptLogprobs]:
        """The prompt's log probabilities, message by message."""
        return [each.prompt_logprobs for each in self.events if each.HasField("prompt_logprobs")]

    def ids(self, sequence: int = 0) -> list[int]:
        """Returns a sequence's ids."""
        return [token for delta in self._of(sequence) for token in delta.token_ids]

    def text(self, sequence: int = 0) -> str:
        """Returns a sequence's text."""
        return "".join(delta.text for delta in self._of(sequence))

    def logprobs(self, sequence: int = 0) -> list[generation_pb2.TokenLogprob]:
        """Returns a sequence's log probabilities."""
        return [each for delta in self._of(sequence) for each in delta.logprobs]

    def end(self, sequence: int = 0) -> generation_pb2.SequenceEnd:
        """Returns how a sequence ended; raises Broken where it did not."""
        for delta in self._of(sequence):
            if delta.HasField("end"):
                return delta.end
        raise Broken(f"sequence {sequence} has no end")

    def _of(self, sequence: int) -> list[generation_pb2.Delta]:
        return [delta for delta in self.deltas if delta.sequence == sequence]

    def expect_reason(self, reason: generation_pb2.FinishReason.ValueType) -> None:
        """Raises Broken unless the first sequence ended for this reason."""
        name = generation_pb2.FinishReason.Name
        found = self.end().reason
        seen = name(found) if found in generation_pb2.FinishReason.values() else str(found)
        expect(found == reason, f"the sequence ended with {seen}; not {name(reason)}")


def order_holds(answer: Answer) -> None:
    """`accepted`, then deltas, then `completed`."""
    between = answer.kinds[1:-1]
    holds = (
        answer.kinds[:1] == ["accepted"]
        and answer.kinds[-1:] == ["completed"]
        and bool(between)
        and set(between) == {"delta"}
    )
    expect(holds, f"the events were {', '.join(answer.kinds) or 'none'}")


def token_offsets_hold(answer: Answer) -> None:
    """`token_offset` counts the ids sent before."""
    _offsets_hold(answer, "token_offset", lambda delta: delta.token_offset, lambda d: d.token_ids)


def text_offsets_hold(answer: Answer) -> None:
    """`text_offset` counts the bytes sent before."""
    _offsets_hold(answer, "text_offset", lambda delta: delta.text_offset, lambda d: d.text.encode())


def _offsets_hold(
    answer: Answer,
    name: str,
    offset: Callable[[generation_pb2.Delta], int],
    content: Callable[[generation_pb2.Delta], Sequence[int]],
) -> None:
    sent: dict[int, int] = defaultdict(int)
    for delta in answer.deltas:
        before = sent[delta.sequence]
        expect(offset(delta) == before, f"{name} is {offset(delta)} where {before} were sent")
        sent[delta.sequence] += len(content(delta))


def ends_hold(answer: Answer) -> None:
    """The last delta of each sequence, and no other, has `end`."""
    ended: set[int] = set()
    for delta in answer.deltas:
        expect(delta.sequence not in ended, f"sequence {delta.sequence} went on after its end")
        if delta.HasField("end"):
            ended.add(delta.sequence)
    for sequence in {delta.sequence for delta in answer.deltas} - ended:
        raise Broken(f"sequence {sequence} has no end")


def deltas_hold_something(answer: Answer) -> None:
    """No delta is empty."""
    for delta in answer.deltas:
        something = delta.token_ids or delta.text or delta.reasoning or delta.tool_calls
        expect(bool(something) or delta.HasField("end"), "a delta has nothing in it")


RULES_OF_A_STREAM = (
    order_holds,
    token_offsets_hold,
    text_offsets_hold,
    ends_hold,
    deltas_hold_something,
)
"""What holds of the events wherever they come."""
