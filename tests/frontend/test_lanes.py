"""Short texts pass long ones, and no long one waits for ever."""

from __future__ import annotations

import asyncio

from tokenwire_frontend.models.lanes import OLDEST_EVERY, Job, Lanes
from tokenwire_frontend.models.text_process import TimeLimit


def job(size: int, *, short: bool) -> Job:
    loop = asyncio.get_running_loop()
    return Job(
        b"x" * size, limit=TimeLimit(cpu_s=1.0, wall_s=1.0), short=short, taken=loop.create_future()
    )


async def test_a_process_for_short_jobs_takes_no_other():
    lanes = Lanes()
    long, short = job(9, short=False), job(1, short=True)
    lanes.put(long)
    assert lanes.take(long=False, long_first=False) is None
    lanes.put(short)
    assert lanes.take(long=False, long_first=False) is short
    assert lanes.take(long=False, long_first=False) is None
    assert lanes.take(long=True, long_first=False) is long


async def test_a_process_for_all_takes_short_jobs_first():
    lanes = Lanes()
    jobs = [job(9, short=False), job(1, short=True), job(2, short=True)]
    for each in jobs:
        lanes.put(each)
    taken = [lanes.take(long=True, long_first=False) for _ in range(4)]
    assert taken == [jobs[1], jobs[2], jobs[0], None]


async def test_a_process_for_long_jobs_takes_short_ones_while_there_are_no_others():
    lanes = Lanes()
    jobs = [job(1, short=True), job(9, short=False)]
    for each in jobs:
        lanes.put(each)
    taken = [lanes.take(long=True, long_first=True) for _ in range(3)]
    assert taken == [jobs[1], jobs[0], None]


async def test_the_shortest_of_long_jobs_goes_first_but_the_oldest_comes_to_its_turn():
    lanes = Lanes()
    oldest = job(1000, short=False)
    lanes.put(oldest)
    for turn in range(OLDEST_EVERY):
        lanes.put(job(10 + turn, short=False))
        taken = lanes.take(long=True, long_first=True)
        if turn < OLDEST_EVERY - 1:
            assert taken is not oldest
    assert taken is oldest


async def test_a_job_that_nobody_waits_for_is_gone():
    lanes = Lanes()
    jobs = [job(1, short=True), job(9, short=False)]
    for each in jobs:
        lanes.put(each)
        lanes.drop(each)
        lanes.drop(each)
    assert lanes.take(long=True, long_first=True) is None
