"""One streamed generation as the client sees it, however its events arrive."""

from __future__ import annotations

from tokenwire import _responses
from tokenwire._trace import Trace
from tokenwire.errors import InternalError, TokenwireError
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.types import (
    Accepted,
    Answer,
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

Event = generation_pb2.StreamGenerateResponse | generation_pb2.SessionEvent


class _Sequence:
    """What has come of one sequence."""

    __slots__ = ("calls", "end", "logprobs", "reasoning", "texts", "token_ids")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, list[ToolCallDelta]] = {}
        # Stands until the server says otherwise: what never got an end was cut short by the caller.
        self.end: tuple[FinishReason, str | int | None] = (FinishReason.CANCELLED, None)

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


class Progress:
    """Puts a generation's events together, and checks that none is missing."""

    def __init__(self, generation: generation_pb2.Generation, trace: Trace) -> None:
        self.trace = trace
        # To look for them in every delta would cost as much as the rest of it.
        output = generation.output
        self._has_logprobs = output.logprobs
        is_chat = generation.prompt.HasField("chat")
        self._is_parsed = output.parse if output.HasField("parse") else is_chat
        self._sequences: dict[int, _Sequence] = {}
        self.prompt_logprobs: list[TokenLogprob] = []
        self._completed: tuple[Usage, Timings] | None = None
        self.error: TokenwireError | None = None
        self.accepted: Accepted | None = None
        self.cancelled = False
        self.ended = False

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
            completed = event.completed
            usage, timings = (
                _responses.usage(completed.usage),
                _responses.timings(completed.timings),
            )
            self._completed = (usage, timings)
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

    def take_delta(self, message: generation_pb2.Delta) -> Delta:
        """Notes new tokens or text; raises InternalError on a gap."""
        index, text, token_ids = message.sequence, message.text, message.token_ids[:]
        sequence = self._sequences.get(index)
        if sequence is None:
            sequence = self._sequences[index] = _Sequence()
        offset = len(sequence.token_ids)
        if message.token_offset != offset:
            raise self._broken(
                "STREAM_GAP",
                f"sequence {index} went on at token {message.token_offset} after {offset} tokens",
            )
        sequence.token_ids += token_ids
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
        return delta

    def end(self) -> None:
        """Notes that no more events come; raises InternalError where some are missing."""
        self.ended = True
        if self._completed is None and not self.cancelled:
            raise self._broken("STREAM_CUT", "the stream ended before the generation did")

    def fail(self, error: TokenwireError) -> TokenwireError:
        """Notes that the generation failed, and returns the error to raise."""
        self.ended = True
        self.error = error
        return error

    def _broken(self, reason: str, message: str) -> TokenwireError:
        return self.fail(InternalError(message, reason=reason, trace_id=self.trace_id))

    def answer(self) -> Answer:
        """Returns the whole generation; see `StreamedGeneration.result`."""
        if self.error is not None:
            raise self.error
        if self._completed is None and not self.cancelled:
            raise RuntimeError("the result comes with the stream's end; iterate it first")
        usage, timings = self._completed or (self._counted(), Timings())
        sequences = [self._sequences[index] for index in sorted(self._sequences)] or [_Sequence()]
        return Answer(
            request_id=self.accepted.request_id if self.accepted else "",
            trace_id=self.trace_id,
            sequences=[sequence.result() for sequence in sequences],
            usage=usage,
            timings=timings,
            prompt_logprobs=self.prompt_logprobs,
        )

    def _counted(self) -> Usage:
        completion = sum(len(sequence.token_ids) for sequence in self._sequences.values())
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
