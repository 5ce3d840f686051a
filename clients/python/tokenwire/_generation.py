"""One streamed generation as the client sees it, however its events arrive."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire import _responses
from tokenwire._seam import Seam
from tokenwire._trace import Trace
from tokenwire.errors import InternalError, TokenwireError
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire.types import (
    Accepted,
    Answer,
    Attempt,
    ChatMessage,
    Delta,
    FinishReason,
    SequenceResult,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

Event = (
    generation_pb2.StreamGenerateResponse
    | generation_pb2.AttachResponse
    | generation_pb2.SessionEvent
)


class _Sequence:
    """What has come of one sequence."""

    __slots__ = (
        "begin", "calls", "end", "ended", "ends", "logprobs", "offset", "reasoning", "seam",
        "texts", "token_ids",
    )  # fmt: skip

    def __init__(self, begin: int = 0) -> None:
        self.begin = self.offset = begin
        """Ids before the first that comes, and before the next."""
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, list[ToolCallDelta]] = {}
        # Stands until the server says otherwise: what never got an end was cut short by the caller.
        self.end: tuple[FinishReason, str | int | None] = (FinishReason.CANCELLED, None)
        self.ended = False
        self.ends: dict[str | int, int] = {}
        """Where what came ends, in bytes of the whole; of a sequence of which only a part comes."""
        self.seam: Seam | None = None
        """Checks the places of the output; where it began in another stream."""

    def reopen(self, *, echoes: bool) -> None:
        """Expects what follows what came, from another stream."""
        self.seam = Seam(
            "".join(self.texts),
            "".join(self.reasoning),
            {index: str(_whole(deltas).arguments) for index, deltas in self.calls.items()},
            is_repeated=self.offset == 0,
            echoes=echoes,
            ends=self.ends if self.begin else None,
        )

    def note_ends(self, message: generation_pb2.Delta) -> None:
        """Notes where what came ends, of a sequence of which only a part comes."""
        if message.text:
            self.ends["text"] = message.text_offset + len(message.text.encode())
        if message.reasoning:
            self.ends["reasoning"] = message.reasoning_offset + len(message.reasoning.encode())
        for call in message.tool_calls:
            if call.arguments:
                self.ends[call.index] = call.arguments_offset + len(call.arguments.encode())

    def take_parsed(self, delta: Delta, message: generation_pb2.Delta) -> None:
        if message.reasoning:
            delta.reasoning = message.reasoning
            self.reasoning.append(delta.reasoning)
        if message.tool_calls:
            delta.tool_calls = _responses.tool_call_deltas(message.tool_calls)
            for call in delta.tool_calls:
                self.calls.setdefault(call.index, []).append(call)

    def result(self) -> SequenceResult:
        calls = [_whole(self.calls[index]) for index in sorted(self.calls)]
        parsed = ("".join(self.reasoning), calls)
        return SequenceResult(
            "".join(self.texts), self.token_ids, self.logprobs, *self.end, *parsed
        )


def _whole(deltas: list[ToolCallDelta]) -> ToolCall:
    """Returns a tool call, of what has come of it."""
    return ToolCall(
        name=next((each.name for each in deltas if each.name), ""),
        arguments="".join(each.arguments for each in deltas),
        id=next((each.id for each in deltas if each.id), ""),
    )


def _is_parsed(generation: generation_pb2.Generation) -> bool:
    output = generation.output
    return output.parse if output.HasField("parse") else generation.prompt.HasField("chat")


class Progress:
    """Puts a generation's events together, and checks that none is missing.

    Args:
        trace: its trace, as far as the client knows it.
        generation: what was asked for; None where it was begun by another call.
        stream: how it comes.
        token_offsets: ids of each sequence that are known already.
    """

    def __init__(
        self,
        trace: Trace,
        generation: generation_pb2.Generation | None,
        stream: options_pb2.StreamOptions | None = None,
        token_offsets: Sequence[int] = (),
    ) -> None:
        self.trace = trace
        # To look for them in every delta would cost as much as the rest of it.
        self._has_logprobs = generation is None or generation.output.logprobs
        self._is_parsed = generation is None or _is_parsed(generation)
        self._echoes = generation is None or generation.output.echo
        content = options_pb2.STREAM_CONTENT_UNSPECIFIED if stream is None else stream.content
        self.has_ids = content != options_pb2.STREAM_CONTENT_TEXT
        self._has_text = content != options_pb2.STREAM_CONTENT_IDS
        self._sequences = {at: _Sequence(ids) for at, ids in enumerate(token_offsets)}
        self.prompt_logprobs: list[TokenLogprob] = []
        self._completed: tuple[Usage, Timings, list[Attempt]] | None = None
        self.error: TokenwireError | None = None
        self.accepted: Accepted | None = None
        self.continued = 0
        """Times that it went on from another stream."""
        self.cancelled = False
        self.ended = False
        self.unsaid: list[Delta] = []
        """Deltas that no stream brought."""

    @property
    def trace_id(self) -> str:
        """The request's trace id as far as it is known: the server's word, else the client's."""
        return self.accepted.trace_id if self.accepted else self.trace.trace_id

    @property
    def text(self) -> str:
        """The first sequence's text so far."""
        return "".join(self._sequences[0].texts) if 0 in self._sequences else ""

    def message(self) -> ChatMessage:
        """Returns the first sequence so far as the assistant's turn."""
        return self._sequences.get(0, _Sequence()).result().message()

    def take(self, event: Event) -> Delta | None:
        """Notes an event, and returns the delta where it is one; raises InternalError on a gap."""
        if event.HasField("delta"):
            return self.take_delta(event.delta)
        if event.HasField("accepted"):
            self.accepted = _responses.accepted(event.accepted)
        elif event.HasField("completed"):
            self._complete(event.completed)
        elif event.HasField("prompt_logprobs"):
            self._take_prompt(event.prompt_logprobs)
        return None

    def _take_prompt(self, message: generation_pb2.PromptLogprobs) -> None:
        come = len(self.prompt_logprobs)
        if message.token_offset != come:
            raise self._broken(
                "STREAM_GAP", f"the prompt went on at token {message.token_offset} after {come}"
            )
        self.prompt_logprobs += _responses.logprobs(message.tokens)

    def _complete(self, message: generation_pb2.Completed) -> None:
        usage, timings = _responses.usage(message.usage), _responses.timings(message.timings)
        self._completed = (usage, timings, _responses.attempts(message.attempts))

    def take_delta(self, message: generation_pb2.Delta) -> Delta:
        """Notes new tokens or text; raises InternalError on a gap."""
        index = message.sequence
        sequence = self._sequences.get(index)
        if sequence is None:
            sequence = self._sequences[index] = self._new()
        if sequence.seam is not None:
            self._trim(sequence.seam, message)
        if sequence.begin:
            sequence.note_ends(message)
        text, token_ids = message.text, message.token_ids[:]
        offset = sequence.offset
        if message.token_offset != offset:
            offset = self._skip(index, sequence, message.token_offset)
        sequence.token_ids += token_ids
        sequence.offset = offset + len(token_ids)
        sequence.texts.append(text)
        delta = Delta(text, token_ids, index, offset, [], None, None, message.text_offset)
        if self._has_logprobs:
            delta.logprobs = _responses.logprobs(message.logprobs)
            sequence.logprobs += delta.logprobs
        if self._is_parsed:
            sequence.take_parsed(delta, message)
        if message.HasField("end"):
            delta.finish_reason = _responses.finish_reason(message.end)
            delta.stop_match = _responses.stop_match(message.end)
            sequence.end = (delta.finish_reason, delta.stop_match)
            sequence.ended = True
        return delta

    def _skip(self, index: int, sequence: _Sequence, token_offset: int) -> int:
        """Returns where a delta begins that is not where the sequence stood."""
        if not self.has_ids and token_offset > sequence.offset:
            return token_offset
        raise self._broken(
            "STREAM_GAP",
            f"sequence {index} went on at token {token_offset} after {sequence.offset} tokens",
        )

    def close(self) -> TokenwireError | None:
        """Notes that the stream has ended; returns the error where the generation has not."""
        if self._completed is not None or self.cancelled:
            self.ended = True
            return None
        message = "the stream ended before the generation did"
        error = InternalError(message, reason="STREAM_CUT", trace_id=self.trace_id)
        error.is_break = True
        return error

    # How it goes on from another stream.

    @property
    def has_begun(self) -> bool:
        """Whether ids have come, or text of which the ids do not, or an end."""
        return any(
            each.offset or each.ended or (each.texts and not self.has_ids)
            for each in self._sequences.values()
        )

    def so_far(self, count: int) -> list[generation_pb2.SequenceSoFar]:
        """Returns what there is of so many sequences."""
        known = [self._sequences.get(index) or _Sequence() for index in range(count)]
        return [
            generation_pb2.SequenceSoFar(token_ids=each.token_ids, ended=each.ended)
            for each in known
        ]

    def token_offsets(self) -> list[int]:
        """Returns how many ids of each sequence are known, up to the last of which any are."""
        count = max(self._sequences, default=-1) + 1
        return [self._sequences[at].offset if at in self._sequences else 0 for at in range(count)]

    def reopen(self) -> None:
        """Expects what follows what came, from another stream."""
        if not self.has_begun:
            self.prompt_logprobs = []
        if self._has_text:
            for sequence in self._sequences.values():
                sequence.reopen(echoes=self._echoes)

    def conclude(self, count: int) -> bool:
        """Ends the generation if of so many sequences only the figures are missing."""
        if sum(each.ended for each in self._sequences.values()) < count:
            return False
        self._completed = (self._counted(), Timings(), [])
        self.ended = True
        return True

    def run_out(self, count: int) -> None:
        """Ends the generation with what came, since its time budget is spent."""
        for index in range(count):
            sequence = self._sequences.setdefault(index, _Sequence())
            if not sequence.ended:
                sequence.ended, sequence.end = True, (FinishReason.TIME_BUDGET, None)
                place = (index, sequence.offset)
                self.unsaid.append(Delta("", [], *place, [], FinishReason.TIME_BUDGET, None))
        self.conclude(count)

    def fail(self, error: TokenwireError) -> TokenwireError:
        """Notes that the generation failed, and returns the error to raise."""
        self.ended = True
        self.error = error
        return error

    def _new(self) -> _Sequence:
        sequence = _Sequence()
        if not self.has_ids:
            # Which only the text's own offsets can check.
            sequence.reopen(echoes=self._echoes)
        return sequence

    def _trim(self, seam: Seam, message: generation_pb2.Delta) -> None:
        """Drops from a delta what came before; raises InternalError where something is missing."""
        try:
            seam.trim(message)
        except ValueError as fault:
            raise self._broken("STREAM_GAP", f"sequence {message.sequence}: {fault}") from None

    def _broken(self, reason: str, message: str) -> TokenwireError:
        return self.fail(InternalError(message, reason=reason, trace_id=self.trace_id))

    def answer(self) -> Answer:
        """Returns the whole generation; see `StreamedGeneration.result`."""
        if self.error is not None:
            raise self.error
        if self._completed is None and not self.cancelled:
            raise RuntimeError("the result comes with the stream's end; iterate it first")
        usage, timings, attempts = self._completed or (self._counted(), Timings(), [])
        sequences = [self._sequences[index] for index in sorted(self._sequences)] or [_Sequence()]
        return Answer(
            request_id=self.accepted.request_id if self.accepted else "",
            trace_id=self.trace_id,
            sequences=[sequence.result() for sequence in sequences],
            usage=usage,
            timings=timings,
            prompt_logprobs=self.prompt_logprobs,
            conversation=self.accepted.conversation if self.accepted else None,
            continued=self.continued,
            attempts=attempts,
        )

    def _counted(self) -> Usage:
        completion = sum(sequence.offset for sequence in self._sequences.values())
        return Usage(self.accepted.prompt_tokens if self.accepted else 0, completion)


class StreamedGeneration:
    """What every stream of a generation has beside its deltas."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def accepted(self) -> Accepted | None:
        """The request's id, trace id and prompt length; None until a worker took the request."""
        return self._progress.accepted

    @property
    def trace_id(self) -> str:
        """By which the services' logs and traces name the request; 32 hex digits."""
        return self._progress.trace_id

    @property
    def text(self) -> str:
        """The text of the first sequence, as far as it has come."""
        return self._progress.text

    @property
    def prompt_logprobs(self) -> list[TokenLogprob]:
        """Log probabilities of the prompt, where asked for; all there before the first delta."""
        return self._progress.prompt_logprobs

    @property
    def continued(self) -> int:
        """Times that the client continued it on another connection."""
        return self._progress.continued

    def message(self) -> ChatMessage:
        """Returns the first sequence as the assistant's turn, as far as it has come."""
        return self._progress.message()

    @property
    def result(self) -> Answer:
        """The whole generation, once the stream has ended.

        After `cancel` it holds what had come, with FinishReason.CANCELLED.

        Raises:
            TokenwireError: the generation failed.
            RuntimeError: the stream has not ended yet.
        """
        return self._progress.answer()
