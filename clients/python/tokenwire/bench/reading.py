"""One generation as it comes: when, and whether every token of it does."""

from __future__ import annotations

from tokenwire.bench.measures import CUT, Measures
from tokenwire.errors import from_status
from tokenwire.frontend.v1 import generation_pb2

Event = generation_pb2.StreamGenerateResponse | generation_pb2.SessionEvent


class Reading:
    """One generation. Times are of time.monotonic, in seconds."""

    __slots__ = (
        "cached_tokens",
        "collects",
        "completed",
        "finish",
        "first_s",
        "frontend_ttft_s",
        "gaps_s",
        "intended_s",
        "last_s",
        "lost",
        "measures",
        "prompt_tokens",
        "reason",
        "repeated",
        "retry_after_s",
        "text",
        "text_bytes",
        "text_gaps",
        "token_ids",
        "tokens",
    )

    def __init__(self, measures: Measures, intended_s: float, collects: bool) -> None:
        self.measures = measures
        self.intended_s = intended_s
        """When it was to start; latencies count from here."""
        self.collects = collects
        """Whether text and ids are kept, for the next turn of a conversation."""
        self.first_s = 0.0
        self.last_s = 0.0
        self.tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens: int | None = None
        self.frontend_ttft_s: float | None = None
        """From the frontend's receipt to the first token's arrival there."""
        self.completed = False
        self.finish = 0
        self.reason = ""
        """Why it failed; empty where it did not."""
        self.retry_after_s: float | None = None
        self.lost = 0
        """Tokens that did not come, by the offsets and by the count at the end."""
        self.repeated = 0
        """Tokens that came twice."""
        self.text_gaps = 0
        """Deltas whose text does not continue what came before."""
        self.text_bytes = 0
        self.gaps_s: list[float] = []
        self.text = ""
        self.token_ids: list[int] = []

    def take(self, event: Event, now_s: float) -> bool:
        """Takes an event; returns whether it is the generation's last."""
        kind = event.WhichOneof("event")
        if kind == "delta":
            self._take_delta(event.delta, now_s)
            return False
        if kind == "accepted":
            self.prompt_tokens = event.accepted.prompt_token_count
            return False
        if kind == "completed":
            self.take_end(event.completed.usage, event.completed.timings)
            return True
        if kind == "error":
            error = from_status(event.error, "")  # type: ignore[union-attr]
            self.reason, self.retry_after_s = error.reason, error.retry_after_s
            return True
        return False

    def take_whole(self, answer: generation_pb2.GenerateResponse, now_s: float) -> None:
        """Takes a whole answer; its tokens have no times of their own."""
        sequence = answer.sequences[0]
        self.tokens = len(sequence.token_ids)
        self.measures.tokens(now_s, self.tokens)
        self.finish = sequence.end.reason
        if self.collects:
            self.text, self.token_ids = sequence.text, list(sequence.token_ids)
        self.take_end(answer.usage, answer.timings)
        self.prompt_tokens = answer.usage.prompt_tokens

    def take_end(self, usage: generation_pb2.Usage, timings: generation_pb2.Timings) -> None:
        """Ends it well, and checks the server's count."""
        self.completed = True
        if timings.HasField("time_to_first_token"):
            self.frontend_ttft_s = timings.time_to_first_token.ToNanoseconds() / 1e9
        if usage.HasField("cached_prompt_tokens"):
            self.cached_tokens = usage.cached_prompt_tokens
        missing = usage.completion_tokens - self.tokens
        if missing > 0:
            self.lost += missing
        elif missing < 0:
            self.repeated -= missing

    def end(self) -> None:
        """Notes that nothing more comes."""
        if not self.completed and not self.reason:
            self.reason = CUT
            self.lost += 1  # at least: nobody says how many were to come

    def _take_delta(self, delta: generation_pb2.Delta, now_s: float) -> None:
        count = len(delta.token_ids)
        if count:
            missing = delta.token_offset - self.tokens
            if missing > 0:
                self.lost += missing
            elif missing < 0:
                self.repeated -= missing
            self._note_times(now_s, count)
            self.tokens = delta.token_offset + count
        text = delta.text
        if text:
            if delta.text_offset != self.text_bytes:
                self.text_gaps += 1
            self.text_bytes = delta.text_offset + len(text.encode())
        if delta.HasField("end"):
            self.finish = delta.end.reason
        if self.collects:
            self.text += text
            self.token_ids += delta.token_ids

    def _note_times(self, now_s: float, count: int) -> None:
        measures = self.measures
        measures.tokens(now_s, count)
        if self.first_s:
            gap_s = now_s - self.last_s
            measures.gap(self.last_s, gap_s)
            if measures.keeps_gaps:
                self.gaps_s.append(gap_s)
        else:
            self.first_s = now_s
            measures.first_token(self)
        self.last_s = now_s
