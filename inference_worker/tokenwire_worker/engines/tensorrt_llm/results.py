"""What a tensorrt_llm.RequestOutput brings, as deltas.

A request yields one object again and again, changed in place. Its `token_ids_diff` is relative to
the engine's last message, and stale for sequences that the message was not of; so what is new is
read off the cumulative ids by the length that has been handed on, once for each yield.
"""

from __future__ import annotations

from typing import Any

from tokenwire_worker.engines.port import (
    Alternative,
    Finish,
    Generation,
    Output,
    Times,
    TokenLogprob,
)
from tokenwire_worker.engines.tensorrt_llm.sampling import NEVER, Stops
from tokenwire_worker.engines.tensorrt_llm.transfers import packed

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "cancelled": Finish.CANCELLED}


class SequenceReader:
    """Reads one sequence: the only one of its request."""

    def __init__(self, key: int, sequence: int, generation: Generation, ends: Stops) -> None:
        """Takes the sequence's name in the port, and what was asked of the engine."""
        self._key = key
        self._sequence = sequence
        self._generation = generation
        self._ends = ends
        self._read = 0
        """Ids handed on."""
        self.stopped_here = False
        """The sequence ended by a stop of the adapter's, and the engine does not know."""

    @property
    def begun(self) -> bool:
        """Whether anything has been read."""
        return self._read > 0

    def read(self, result: Any) -> Output | None:
        """Returns what is new since the last call, or None where nothing is.

        Args:
            result: the RequestOutput as it stands.
        """
        completion = result.outputs[0]
        start, reason = self._read, completion.finish_reason
        ids = completion.token_ids[start:]
        if not ids and reason is None:
            return None
        output = Output(self._key, self._sequence, ids)
        if self._generation.logprobs and ids:
            entries = completion.logprobs[start : start + len(ids)]
            output.logprobs = self._logprobs(ids, entries)
        if not start and not self._generation.transfer_handle:  # where it counts what was fetched
            output.cached_prompt_tokens = result.cached_tokens
        if self._generation.transfer_handle and start + len(ids) >= self._generation.max_tokens:
            # The first token may be one more than the engine counts.
            del ids[self._generation.max_tokens - start :]
            self.stopped_here = reason is None
            reason = reason or "length"
        self._read += len(ids)
        if reason is not None:
            self._end(output, completion, reason)
        elif self._ends.ours:
            self._stop_here(output, start)
        return output

    def prefilled(self, result: Any) -> Output | None:
        """Returns the end of a prompt that is computed alone, or None where it goes on.

        Args:
            result: the RequestOutput as it stands.
        """
        if not result.finished:
            return None
        completion = result.outputs[0]
        output = Output(self._key, self._sequence, [], Finish.LENGTH)
        if completion.finish_reason == "cancelled":
            output.finish = Finish.CANCELLED
            return output
        output.cached_prompt_tokens = result.cached_tokens
        output.transfer_handle = packed(self._generation, completion.disaggregated_params)
        return output

    def _end(self, output: Output, completion: Any, reason: str) -> None:
        if self._ends.ours:
            self._stop_here(output, self._read - len(output.token_ids))
        if output.finish is None:
            output.finish = _FINISHES.get(reason)
            if output.finish is None:
                output.error = f"the engine ended it with {reason!r}"
        if output.finish is Finish.STOP and not self._ends.ours:
            self._complete_stop(output, completion)
        output.times = times(completion.request_perf_metrics)

    def _complete_stop(self, output: Output, completion: Any) -> None:
        """Has the stop token among the ids exactly where the caller knows of it."""
        ids, end_id = output.token_ids, self._ends.end_id
        # The TRTLLMSampler leaves out end_id, and only that has no stop_reason.
        by_end_id = end_id != NEVER and completion.stop_reason is None
        if by_end_id and completion.token_ids[-1:] != [end_id]:
            ids.append(end_id)
        # A completed form ends with an end-of-sequence id, whether or not the caller has it as one.
        if self._generation.guide and ids and ids[-1] not in self._generation.stop_token_ids:
            ids.pop()
            if output.logprobs:
                output.logprobs.pop()

    def _stop_here(self, output: Output, start: int) -> None:
        """Ends the sequence at the first of our stops that is far enough in."""
        ids = output.token_ids
        first = max(self._ends.after_tokens - start, 0)
        for at in range(first, len(ids)):
            if ids[at] in self._ends.ours:
                del ids[at + 1 :]
                if output.logprobs:
                    del output.logprobs[at + 1 :]
                output.finish = Finish.STOP
                self.stopped_here = True
                return

    def _logprobs(self, ids: list[int], entries: list[Any]) -> list[TokenLogprob] | None:
        """Returns a log probability for each id, or None where the engine lacks some."""
        if len(entries) != len(ids):
            return None
        top = self._generation.top_logprobs
        return [
            _logprob(token_id, entry, top) for token_id, entry in zip(ids, entries, strict=True)
        ]


def _logprob(token_id: int, entry: Any, top: int) -> TokenLogprob:
    if not isinstance(entry, dict):  # a bare number, of the chosen token
        return TokenLogprob(token_id, float(entry))
    alternatives: tuple[Alternative, ...] = ()
    if top:
        ranked = sorted(entry.items(), key=lambda pair: -pair[1].logprob)[:top]
        alternatives = tuple(Alternative(other, found.logprob) for other, found in ranked)
    return TokenLogprob(token_id, entry[token_id].logprob, alternatives)


def times(metrics: Any) -> Times | None:
    """Returns when things happened to a sequence, or None where the engine does not tell.

    Its times are of the steady clock, which is the one of time.monotonic.
    """
    timing = getattr(metrics, "timing_metrics", None)
    if timing is None:
        return None
    started_s, first_s, last_s = (
        moment.total_seconds()
        for moment in (timing.first_scheduled_time, timing.first_token_time, timing.last_token_time)
    )
    # What has not happened is 0.
    if not 0 < started_s <= first_s <= last_s:
        return None
    return Times(started_s, first_s, last_s)
