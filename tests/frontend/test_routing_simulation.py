"""Prefix routing on traces, simulated: it finds nearly all that could be found, with even load."""

from __future__ import annotations

import pytest
from tokenwire_frontend.core.routing.least_loaded import LeastLoaded
from tokenwire_frontend.core.routing.prefix import PrefixRouter

from benchmarks.routing.simulation import Simulation, bounds, prepare
from benchmarks.routing.traces import TRACES, Shape

WORKERS = 8


@pytest.mark.parametrize("trace", TRACES)
def test_prefix_routing_reuses_nearly_all_and_loads_evenly(trace):
    jobs = prepare(TRACES[trace](Shape(800, rate=0.9 * WORKERS, longest=3000, scale=0.5)))
    best = bounds(jobs, WORKERS)
    prefix = Simulation([PrefixRouter(2**26)], WORKERS).run(jobs)
    least_loaded = Simulation([LeastLoaded()], WORKERS).run(jobs)
    assert prefix.hit_rate >= 0.9 * best.unbounded
    assert prefix.spread <= 1.25
    assert prefix.hit_rate > least_loaded.hit_rate + 0.1
    assert prefix.wait_s < least_loaded.wait_s


def test_several_frontends_agree_by_kv_events():
    jobs = prepare(TRACES["chat"](Shape(800, rate=0.9 * WORKERS, longest=3000, scale=0.5)))
    routers = [PrefixRouter(2**26) for _ in range(4)]
    result = Simulation(routers, WORKERS, events=True).run(jobs)
    assert result.hit_rate >= 0.9 * bounds(jobs, WORKERS).unbounded
    assert result.expected_rate == pytest.approx(result.hit_rate, abs=0.01)
