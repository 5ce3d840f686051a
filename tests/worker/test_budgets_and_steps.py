"""A time budget ends a generation without waiting for the step that the engine is at."""

from __future__ import annotations

import time

import pytest

from tests.engines.conftest import build
from tests.worker.calls import LENGTH, TIME_BUDGET, request
from tests.worker.worker_here import worker_of

STEP_S = 20.0
BUDGET_S = 0.1


@pytest.mark.parametrize("tokens", [40, 2000], ids=["decodes", "prefills"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after another"])
async def test_a_budget_does_not_wait_for_a_step(tokens, waits):
    engine = build(
        *("--simulated.step-ms", f"{STEP_S * 1e3}", "--simulated.max-sequences", "1"),
        *("--simulated.step-tokens", "300"),
        engine="simulated",
    )
    async with worker_of(engine) as here, here.exchange() as exchange:
        if waits:
            await exchange.submit(1, request(1))
        began_s = time.monotonic()
        await exchange.submit(2, request(2, tokens=tokens, time_budget=BUDGET_S))
        await exchange.read_until(lambda: exchange[2].over)
        assert BUDGET_S <= time.monotonic() - began_s < STEP_S / 2
    assert (exchange[2].reasons, exchange[2].ids) == ([TIME_BUDGET], {})


async def test_a_budget_gives_what_there_is():
    engine = build("--simulated.step-ms", "5", engine="simulated")
    async with worker_of(engine) as here, here.exchange() as exchange:
        await exchange.submit(1, request(1, max_tokens=100, time_budget=3600))
        await exchange.submit(2, request(1, max_tokens=3900, time_budget=0.5))
        await exchange.read_until(lambda: exchange[1].over and exchange[2].over)
    whole, part = exchange[1], exchange[2]
    assert (whole.reasons, part.reasons) == ([LENGTH], [TIME_BUDGET])
    assert 0 < len(part.ids[0]) < 3900
    assert part.ids[0][:100] == whole.ids[0][: len(part.ids[0])]
