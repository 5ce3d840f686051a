"""The sum of what several processes have counted, as they come and go."""

from __future__ import annotations

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.collected import Totals

TOKENS, ACTIVE = registry.TOKENS.name, registry.ACTIVE_GENERATIONS.name
LAG = registry.EVENT_LOOP_LAG.name


def part(tokens: int, active: int, lag: float) -> dict:
    counts = [tokens] + [0] * len(registry.EVENT_LOOP_LAG.bounds)
    return {
        TOKENS: {(("gen_ai.token.type", "output"),): tokens},
        ACTIVE: {(): active},
        LAG: {(): (counts, lag, [(lag, 1, 2, 3)])},
    }


def told(totals: Totals) -> tuple[int, int, int, float, int]:
    """Returns tokens, active generations, and the lag's count, sum and exemplars."""
    total = totals.total()
    counts, lag, exemplars = total[LAG][()]
    [tokens] = total[TOKENS].values()
    return tokens, total.get(ACTIVE, {}).get((), 0), sum(counts), lag, len(exemplars)


def test_counts_and_gauges_are_summed():
    totals = Totals()
    totals.take("0.1", part(3, 1, 0.5))
    totals.take("1.1", part(4, 2, 0.25))
    assert told(totals) == (7, 3, 7, 0.75, 2)
    totals.take("1.1", part(5, 0, 0.5))
    assert told(totals) == (8, 1, 8, 1.0, 2)


def test_counts_of_a_process_that_has_ended_stay_and_its_gauges_go():
    totals = Totals()
    totals.take("0.1", part(3, 1, 0.5))
    totals.take("1.1", part(4, 2, 0.25))
    totals.leave("1.1")
    totals.leave("2.1")  # of which nothing was heard
    assert told(totals) == (7, 1, 7, 0.75, 1)
    totals.take("1.2", part(1, 1, 0.25))
    assert told(totals) == (8, 2, 8, 1.0, 2)
    for run in ("0.1", "1.2"):
        totals.leave(run)
    assert told(totals) == (8, 0, 8, 1.0, 0)


def test_metrics_of_one_process_stay_apart():
    totals = Totals()
    for process in ("0", "1"):
        totals.take(process, {registry.WORKERS.name: {(("tokenwire.process", process),): 1}})
    assert list(totals.total()[registry.WORKERS.name].values()) == [1, 1]
