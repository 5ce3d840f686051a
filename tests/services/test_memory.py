"""The garbage collector does not hold up a service for what it has imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import gc, sys, time
import tokenwire_{name}.main
from tokenwire_service import memory

def cost():
    began_s = time.thread_time()
    gc.collect()
    return time.thread_time() - began_s

gc.collect()
before = cost()
memory.settle()
print(cost() < before / 10)
"""


@pytest.mark.parametrize("name", ["frontend", "worker"])
def test_a_full_pass_does_not_look_at_modules(name):
    program = MEASURE.replace("{name}", name)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.split() == ["True"]
