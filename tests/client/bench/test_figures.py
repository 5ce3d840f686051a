"""Percentiles, rates and their noise; the comparison of two results."""

import math
from random import Random

import pytest
from tokenwire.bench import comparison, doubts, figures
from tokenwire.bench.measures import SLICES, Histogram, Measures, Merged
from tokenwire.bench.plan import Objective


def test_quantiles_are_within_one_percent_of_the_nearest_rank():
    random = Random(5)
    values = [random.lognormvariate(-3, 2) for _ in range(5000)]
    halves = Histogram(), Histogram()
    for number, each in enumerate(values):
        halves[number % 2].add(each)
    halves[0].merge(Histogram.from_json(halves[1].to_json()))

    values.sort()
    for share in (0.5, 0.9, 0.99, 0.999, 1.0):
        exact = values[math.ceil(share * len(values)) - 1]
        assert halves[0].quantile_s(share) == pytest.approx(exact, rel=0.01)
    assert halves[0].largest_s == values[-1]
    assert halves[0].mean_s == pytest.approx(sum(values) / 5000)
    assert math.isnan(Histogram().quantile_s(0.5))


def merged(tokens):
    """Measures of 60 s, with so many tokens in each slice of a second."""
    of = Measures(0.0, 60.0, Objective())
    for place, count in enumerate(tokens):
        of.tokens(place + 0.5, count)
    return Merged([of.to_json()])


def test_noise_is_two_standard_errors_of_ten_parts():
    steady = figures.figures(merged([100] * SLICES), 60.0, 60.0, Objective())
    assert steady["output_tokens_per_s"] == {"value": 100, "noise": 0}

    wave = figures.figures(merged(([90] * 6 + [110] * 6) * 5), 60.0, 60.0, Objective())
    # Ten parts of 90 and 110 tok/s in turn: their standard deviation is 10 * sqrt(10 / 9).
    assert wave["output_tokens_per_s"]["value"] == 100
    assert wave["output_tokens_per_s"]["noise"] == pytest.approx(2 * 10 / 3)


def test_a_phase_that_was_cut_short_is_judged_by_the_time_that_it_had():
    cut = figures.figures(merged([100] * 30), 30.0, 60.0, Objective())
    assert cut["output_tokens_per_s"] == {"value": 100, "noise": 0}
    assert len(figures.timeline(merged([100] * 30), 30.0, 60.0)) == 30


def test_cpu_time_per_token_is_told_over_the_same_time_as_the_tokens():
    points = [(float(at_s), 0.2 * at_s) for at_s in range(61)]
    assert figures.cost_us(points, [100] * 60, 1.0) == {
        "value": 2000,
        "noise": pytest.approx(0, abs=1e-6),
    }
    assert figures.cost_us(points, [0] * 60, 1.0)["value"] is None


def result(tokens_per_s, ttft_s, cpu_us, noise=0.0, name="stream"):
    return {
        "phases": [
            {
                "name": name,
                "flows": {
                    "all": {
                        "requests": {"failed": 0},
                        "figures": {
                            "output_tokens_per_s": {"value": tokens_per_s, "noise": noise},
                            "ttft_p50_s": {"value": ttft_s, "noise": noise * ttft_s / 100},
                            "ttft_max_s": {"value": ttft_s, "noise": None},
                            "cached_share": {"value": None, "noise": None},
                        },
                    }
                },
                "processes": [
                    {"name": "frontend", "cpu_us_per_token": {"value": cpu_us, "noise": 0.0}},
                    {"name": "load", "cpu_us_per_token": {"value": cpu_us, "noise": 0.0}},
                ],
            }
        ]
    }


def verdicts(before, after):
    return {each.name: each.verdict for each in comparison.compare(before, after)}


def test_a_difference_below_the_noise_is_none():
    loud, quiet = result(100, 0.1, 20, noise=10), result(108, 0.108, 20, noise=0)
    assert verdicts(loud, quiet) == {
        "output_tokens_per_s": "same",
        "ttft_p50_s": "same",
        "ttft_max_s": "unknown",
        "cpu_us_per_token.frontend": "same",
    }
    assert verdicts(result(100, 0.1, 20), quiet) == {
        "output_tokens_per_s": "better",
        "ttft_p50_s": "worse",
        "ttft_max_s": "unknown",
        "cpu_us_per_token.frontend": "same",
    }


def test_rounds_are_compared_by_their_median_and_their_range_is_noise():
    before = {"phases": [result(each, 0.1, 20)["phases"][0] for each in (90, 100, 130)]}
    (row, *_) = comparison.compare(before, result(100, 0.1, 20))
    assert (row.before, row.noise) == (100, pytest.approx(0.2))


def test_a_limit_counts_what_is_worse_beyond_the_noise():
    rows = comparison.compare(result(100, 0.1, 20, noise=3), result(90, 0.1, 25, noise=0))
    assert [each.name for each in rows if each.is_worse_by(0.05)] == [
        "output_tokens_per_s",
        "cpu_us_per_token.frontend",
    ]
    assert [each.name for each in rows if each.is_worse_by(0.08)] == ["cpu_us_per_token.frontend"]


def test_of_several_processes_the_sum_is_compared():
    uneven = [result(100, 0.1, 30), result(100, 0.1, 30)]
    for each, shares in zip(uneven, ((29, 1), (1, 29)), strict=True):
        each["phases"][0]["processes"] += [
            {"name": f"frontend {n}", "cpu_us_per_token": {"value": share, "noise": 0.0}}
            for n, share in enumerate(shares, 1)
        ]
    assert set(verdicts(*uneven).values()) == {"same", "unknown"}


def test_results_without_a_common_phase_are_not_compared():
    with pytest.raises(ValueError, match="no phase in common: stream against session"):
        comparison.compare(result(1, 1, 1), result(1, 1, 1, name="session"))


def test_memory_that_grows_in_a_long_phase_is_told():
    def phase(window_s, last_mib):
        points = [[float(at_s), 500.0] for at_s in range(5)]
        points += [[float(at_s), 100.0] for at_s in range(5, 40)]
        points += [[float(at_s), last_mib] for at_s in range(40, 50)]
        load = {"processes": [{"cpu_share": 0.1}], "loop_lag_p99_s": 0, "machine_busy_share": 0}
        processes = [{"name": "frontend", "memory_mib": points}]
        return {"flows": {}, "load": load, "window_s": window_s, "processes": processes}

    assert doubts.found(phase(60, 150)) == ["memory of frontend grew from 100 to 150 MiB"]
    assert doubts.found(phase(60, 110)) == []
    assert doubts.found(phase(20, 150)) == []
