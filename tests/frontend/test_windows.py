"""When a client with a window is told, on a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenwire_frontend.core.events import Delivery
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.generation import reader as reader_module
from tokenwire_frontend.generation.reader import Reader
from tokenwire_service.telemetry.metrics import Count

WINDOW_S = 10.0


class Case:
    """A reader of a generation that has no end."""

    def __init__(self, monkeypatch, window_s=WINDOW_S, now_s=103.0):
        self.now_s = now_s
        self.timers = []
        self.told = 0
        self.log = SequenceLog(0)
        generation = SimpleNamespace(
            done=False,
            logs=[self.log],
            prompt_log=None,
            state=None,
            record=SimpleNamespace(deltas=Count()),
        )
        loop = SimpleNamespace(call_later=self._call_later)
        monkeypatch.setattr(reader_module.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(reader_module.asyncio, "get_running_loop", lambda: loop)
        self.reader = Reader(self._on_news, Delivery(max_delay_s=window_s))
        self.reader.attach(generation)
        self.reader.begin()

    def _call_later(self, *timer):
        self.timers.append(timer)
        return SimpleNamespace(cancel=self.timers.clear)

    def _on_news(self):
        self.told += 1

    def token(self, *, urgent=False):
        self.log.append_one(7, b"x")
        if self.reader.listens or urgent:
            self.reader.wake(urgent=urgent)

    def take(self):
        return self.reader.take_plain(2**18) or self.reader.take(2**18)


@pytest.fixture
def case(monkeypatch):
    case = Case(monkeypatch)
    case.token(urgent=True)
    assert case.told == 1
    case.take()
    return case


def test_a_window_ends_at_the_clocks_next_multiple_of_it(case):
    case.token()
    case.token()
    assert [delay_s for delay_s, *_ in case.timers] == [7.0]
    assert case.told == 1


@pytest.mark.parametrize("early_s", [0.0015, 0.0, -0.2])
def test_a_timer_that_fires_early_ends_one_window_and_no_second(case, early_s):
    case.token()
    ((_, fire, *arguments),) = case.timers
    case.now_s = 110.0 - early_s
    fire(*arguments)
    assert case.told == 2
    case.take()
    case.token()
    assert case.told == 2, "the next window has just begun"
    assert case.timers[1][0] == pytest.approx(120.0 - case.now_s)


def test_what_is_urgent_ends_no_window_before_its_time(case):
    case.token()
    case.token(urgent=True)
    assert case.told == 2
    case.take()
    case.token()
    assert [delay_s for delay_s, *_ in case.timers] == [7.0]


def test_a_window_ends_once_where_a_multiple_of_it_is_not_exact(monkeypatch):
    assert 0.5 // 0.1 == 4
    case = Case(monkeypatch, window_s=0.1, now_s=0.43)
    case.token(urgent=True)
    case.take()
    case.token()
    ((_, fire, *arguments),) = case.timers
    case.now_s = 0.4985
    fire(*arguments)
    case.take()
    case.token()
    assert [case.told, case.timers[1][0]] == [2, pytest.approx(0.6 - 0.4985)]
