"""Tries forms that nobody knows yet, several at once, so that one that takes long delays no other.

    quick    forms that look light; each has a moment of a process for itself
    slow     forms that look heavy, and those for which the moment was not enough

There is always a process for quick forms: at most one fewer than all run slow ones. A quick form
whose moment is over goes on where it is if slow forms may have one process more; else it waits for
that, from the start. Both queues are bounded. A form for which nobody waits any more is not tried.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from tokenwire_worker.engines.guides.process import (
    STOPPED,
    Lost,
    OutOfCpuTime,
    TrialProcess,
    Unavailable,
    Verdict,
)
from tokenwire_worker.engines.port import Guide

CPU_S = 6.0
"""CPU time that a form may take to be tried: 3 s of two cores, which the compilers use. Schemas of
everyday size take milliseconds, one of 2,000 properties 4 s."""

WALL_S = 30.0
"""Time on the clock that the same may take. Nothing is said of a form that reaches it: the machine
is too busy."""

MOMENT_S = 0.3
"""CPU time that a form has in the quick lane."""

MOMENT_STRETCH = 5
"""Times as much on the clock: to end a process and start the next takes longer than that."""

QUICK_WAITING = 64
SLOW_WAITING = 16
"""Forms that may wait in each lane: some seconds, and the better part of a minute."""

WAITING_CHARACTERS = 16 * 1024**2
"""Characters that the forms of both lanes may have together: four of the largest requests."""

TOO_MUCH = "is more than the grammar compiler can take"

log = structlog.get_logger()


class QueueFull(Exception):  # noqa: N818 - it says how things are with the lanes
    """As many forms wait as may."""


class TooBusy(Exception):  # noqa: N818 - it says how things are with the machine
    """The form could not be tried in time, through no fault of its own."""


@dataclass(slots=True, eq=False)
class _Trial:
    """One form, and everybody who waits to hear of it."""

    guide: Guide
    waiting: list[Future[Verdict]] = field(default_factory=list)
    process: TrialProcess | None = None
    """Where it runs."""
    slow: bool = False
    """It runs as one of the slow ones."""
    losses: int = 0
    """Processes that were lost with it, from outside as far as can be told."""


class Lanes:
    """Threads with a process each; used by any thread."""

    def __init__(
        self, processes: Sequence[TrialProcess], on_verdict: Callable[[Guide, Verdict], None]
    ) -> None:
        """Starts nothing yet.

        Args:
            processes: try forms, one each at a time; two at least.
            on_verdict: told, by any thread, what is known of a form before those who wait are.
        """
        self._processes = processes
        self._on_verdict = on_verdict
        self._quick: deque[_Trial] = deque()
        self._slow: deque[_Trial] = deque()
        self._trials: dict[bytes, _Trial] = {}
        self._slow_running = 0
        self._characters = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._news = threading.Condition()
        """Guards all of it, and is notified of what a thread may wait for."""

    def join(self, guide: Guide, *, heavy: bool) -> Future[Verdict]:
        """Has a form tried, unless it already is; the future is done when it is known.

        It fails with Unavailable or TooBusy where nothing can be known. Whoever waits no longer
        calls `leave`.

        Args:
            guide: the form.
            heavy: it is not to have a moment in the quick lane.

        Raises:
            QueueFull: as many forms wait as may.
            Unavailable: the lanes are closed.
        """
        future: Future[Verdict] = Future()
        with self._news:
            if self._closed:
                raise Unavailable(STOPPED)
            trial = self._trials.get(guide.digest)
            if trial is None:
                trial = _Trial(guide)
                self._enqueue(trial, slow=heavy)
                self._trials[guide.digest] = trial
                self._characters += _characters(guide)
            trial.waiting.append(future)
        return future

    def leave(self, guide: Guide, future: Future[Verdict], *, returns: bool = False) -> None:
        """Waits no longer: a form that nobody waits for is taken out of its queue.

        One that is being tried goes on, so that the result is known, unless others wait for its
        place.

        Args:
            guide: the form.
            future: what `join` returned.
            returns: the caller will ask again, so it goes on even then.
        """
        with self._news:
            trial = self._trials.get(guide.digest)
            if trial is None or future not in trial.waiting:
                return
            trial.waiting.remove(future)
            if trial.waiting:
                return
            if trial.process is None:
                (self._slow if trial.slow else self._quick).remove(trial)
                self._forget(trial)
            elif trial.slow and self._slow and not returns:
                trial.process.stop()

    def close(self) -> None:
        """Ends processes and threads; everybody who waits is told Unavailable."""
        with self._news:
            self._closed = True
            left = [*self._quick, *self._slow]
            self._quick.clear()
            self._slow.clear()
            for trial in left:
                self._forget(trial)
            self._news.notify_all()
        for process in self._processes:
            process.kill()
        for trial in left:
            _tell(trial.waiting, Unavailable(STOPPED))
        for thread in self._threads:
            thread.join()

    # --- the queues; under the lock --------------------------------------------------------------

    def _enqueue(self, trial: _Trial, *, slow: bool) -> None:
        queue, most = (self._slow, SLOW_WAITING) if slow else (self._quick, QUICK_WAITING)
        if len(queue) >= most or self._characters >= WAITING_CHARACTERS:
            raise QueueFull
        trial.slow = slow
        queue.append(trial)
        if not self._threads:
            for process in self._processes:
                thread = threading.Thread(target=self._work, args=(process,), name="guide-trials")
                self._threads.append(thread)
                thread.start()
        self._news.notify()

    def _next(self) -> _Trial | None:
        if self._slow and self._slow_running < len(self._processes) - 1:
            self._slow_running += 1
            return self._slow.popleft()
        return self._quick.popleft() if self._quick else None

    def _forget(self, trial: _Trial) -> None:
        del self._trials[trial.guide.digest]
        self._characters -= _characters(trial.guide)

    # --- the threads -----------------------------------------------------------------------------

    def _work(self, process: TrialProcess) -> None:
        while self._run_next(process):  # which keeps nothing of a form, that may be long
            process.renew_if_worn()
        process.end()

    def _run_next(self, process: TrialProcess) -> bool:
        trial = self._taken(process)
        if trial is None:
            return False
        try:
            outcome = self._tried(trial, process)
        except Exception as error:
            log.exception("guide_trial_fault")
            outcome = error
        self._finish(trial, outcome)
        return True

    def _taken(self, process: TrialProcess) -> _Trial | None:
        with self._news:
            while not self._closed:
                trial = self._next()
                if trial is not None:
                    trial.process = process
                    return trial
                self._news.wait()
        return None

    def _tried(self, trial: _Trial, process: TrialProcess) -> Verdict | Exception | None:
        """Tries a form; returns what comes of it, or None where it is to be tried again."""
        try:
            process.ask(trial.guide, CPU_S, WALL_S)
            if not trial.slow:
                verdict = _answer_of_a_moment(process)
                if verdict is not None:
                    return verdict
                if not self._goes_on(trial):
                    process.end()
                    return None
            return process.answer(WALL_S)
        except OutOfCpuTime:
            return Verdict(f"takes more than {CPU_S:g} s of CPU time to compile")
        except TimeoutError:
            process.end()
            return TooBusy()
        except Unavailable as error:
            return error
        except Lost as lost:
            if lost.by_form:
                return Verdict(TOO_MUCH)
            trial.losses += 1
            return lost if trial.losses > 1 else None

    def _goes_on(self, trial: _Trial) -> bool:
        """Has a quick form go on as a slow one if that leaves a process for quick ones."""
        with self._news:
            if self._slow_running >= len(self._processes) - 1:
                return False
            self._slow_running += 1
            trial.slow = True
        return True

    def _finish(self, trial: _Trial, outcome: Verdict | Exception | None) -> None:
        """Gives the place back, and tells those who wait; or has the form tried again."""
        with self._news:
            trial.process = None
            if trial.slow:
                self._slow_running -= 1
                self._news.notify()
            if outcome is None and trial.waiting and not self._closed:
                try:
                    self._enqueue(trial, slow=True)
                except QueueFull as full:
                    outcome = full
                else:
                    return
            if isinstance(outcome, Verdict):
                self._on_verdict(trial.guide, outcome)
            self._forget(trial)
        _tell(trial.waiting, outcome or Unavailable(STOPPED))


def _answer_of_a_moment(process: TrialProcess) -> Verdict | None:
    """Returns what the process says while its form has a moment, or None."""
    until_cpu_s = process.cpu_s() + MOMENT_S
    for _ in range(MOMENT_STRETCH):
        with suppress(TimeoutError):
            return process.answer(MOMENT_S)
        if process.cpu_s() >= until_cpu_s:
            break
    return None


def _tell(waiting: Sequence[Future[Verdict]], outcome: Verdict | Exception) -> None:
    for future in waiting:
        if not future.set_running_or_notify_cancel():
            continue
        if isinstance(outcome, Verdict):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _characters(guide: Guide) -> int:
    return len(guide.text) + sum(map(len, guide.options))
