"""A generation's way over the streams that bring it: what the next one is asked for, and when."""

from __future__ import annotations

from time import monotonic

from tokenwire import _requests
from tokenwire._generation import Progress
from tokenwire._retry import Attempts, is_retryable
from tokenwire.errors import TokenwireError
from tokenwire.frontend.v1 import generation_pb2, options_pb2

Request = generation_pb2.Generation | generation_pb2.AttachRequest


class Course:
    """What to do when a generation's stream fails.

    Args:
        request: the first request.
        stream: how deltas come.
        progress: what came.
        attempts: how often, and until when, it is tried.
        request_bytes: largest request.
    """

    def __init__(
        self,
        request: Request,
        stream: options_pb2.StreamOptions | None,
        progress: Progress,
        attempts: Attempts,
        request_bytes: int,
    ) -> None:
        self._first = request
        self._generation = request if isinstance(request, generation_pb2.Generation) else None
        self.stream = stream
        self.progress = progress
        self.attempts = attempts
        self._request_bytes = request_bytes
        self._began_s = monotonic()
        self._resume_token = (
            request.resume_token if isinstance(request, generation_pb2.AttachRequest) else ""
        )
        self._is_attaching = False
        self.is_heard = False
        """Whether the stream was accepted."""

    def next_request(self) -> Request:
        """Returns what the next stream is to be asked for.

        Raises:
            InvalidRequestError: more than a message holds, which is then the answer.
        """
        self.is_heard = False
        progress, generation = self.progress, self._generation
        if progress.accepted is None:
            return self._first
        progress.reopen()
        if self._resume_token or generation is None:
            self._is_attaching = True
            return _requests.attach(self._resume_token, progress.token_offsets(), self.stream)
        try:
            return _requests.continuation(
                generation,
                progress.so_far(_count(generation)) if progress.has_begun else (),
                progress.accepted.request_id,
                self._left_s(),
                self._request_bytes,
            )
        except TokenwireError as error:
            raise progress.fail(error) from None

    def hear(self) -> None:
        """Notes that the stream has brought an event other than a delta."""
        accepted = self.progress.accepted
        if self.is_heard or accepted is None:
            return
        self.is_heard = True
        self.progress.continued += self.attempts.has_begun
        self.attempts.begin()
        self._resume_token = accepted.resume_token or self._resume_token

    def recover(self, error: TokenwireError, *, elsewhere: bool) -> float | None:
        """Returns how long to wait before the next request; None where the generation has ended.

        Args:
            error: what the stream failed with.
            elsewhere: the next one goes to another frontend, of which nothing bad is known.

        Raises:
            TokenwireError: the error, which is the answer.
        """
        if self._is_refused_attach(error):
            self._resume_token, self._is_attaching = "", False
            return 0.0
        if self._is_key_of_another(error):
            self._give_up_key()
            return 0.0
        if is_retryable(error, heard=self.is_heard):
            if self._conclude(error):
                return None
            if self.progress.has_begun and not self.progress.has_ids:
                raise self.progress.fail(_without_ids(error))
        delay_s = self.attempts.delay_s(error, elsewhere=elsewhere, heard=self.is_heard)
        if delay_s is None:
            raise self.progress.fail(error)
        return delay_s

    def _conclude(self, error: TokenwireError) -> bool:
        """Ends the generation where nothing is left to ask for; returns whether that was so."""
        progress, generation = self.progress, self._generation
        if generation is None or progress.accepted is None:
            return False
        if self._left_s() == 0 or error.reason == "BUDGET_TOO_SHORT":
            progress.run_out(_count(generation))
            return True
        return progress.conclude(_count(generation))

    def _is_refused_attach(self, error: TokenwireError) -> bool:
        """Whether its frontend does not have it any more: then the ids so far do."""
        said = self._is_attaching and not self.is_heard and not error.is_break
        return said and self._generation is not None

    def _is_key_of_another(self, error: TokenwireError) -> bool:
        """Whether another client of the key goes on with it, from a place of its own."""
        generation = self._generation
        return (
            error.reason == "IDEMPOTENCY_CONFLICT"
            and self.progress.accepted is not None
            and generation is not None
            and bool(generation.idempotency_key)
        )

    def _give_up_key(self) -> None:
        """Goes on by the ids alone: that generates twice, and brings the rest."""
        generation = generation_pb2.Generation()
        if self._generation is not None:
            generation.CopyFrom(self._generation)
        generation.idempotency_key = ""
        if generation.on_disconnect != generation_pb2.ON_DISCONNECT_DETACH:
            generation.ClearField("detach_ttl")  # which needs one of both
        self._generation = generation

    def _left_s(self) -> float | None:
        """Returns what is left of the time budget; None where there is none."""
        generation = self._generation
        if generation is None or not generation.HasField("time_budget"):
            return None
        budget_s = generation.time_budget.ToNanoseconds() / 1e9
        return max(budget_s - (monotonic() - self._began_s), 0.0)


def _count(generation: generation_pb2.Generation) -> int:
    return generation.sequence_count or 1


def _without_ids(error: TokenwireError) -> TokenwireError:
    """Returns the error with the reason why the generation was not continued."""
    error.message += '; not continued: with content="text" the token ids are not known'
    error.args = (error.message,)
    return error
