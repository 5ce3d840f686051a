"""What is told of errors."""

from __future__ import annotations

import pytest
from tokenwire_worker.engines.text import told


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "[05:03:29] /a/b.cc:75: Regex error: Unclosed '['\n",
            "Regex error: Unclosed '['",
        ),
        ("/a/b.cc:8: Check failed: (x.is<y>()) is false: Not an object", "Not an object"),
        ("/a/b.cc:8: Bad JSON. It is:{\n1\n}", "Bad JSON. It is:{"),
        (
            "Exception from src/a.cpp:1:\nException from b.cpp:2:\nNo TPU\n\n",
            "No TPU",
        ),
        ("Check 'a > b' failed at /x/y.cpp:3:\nToo large", "Too large"),
        ("Check 'a > b' failed at /x/y.cpp:3", "Check 'a > b' failed at /x/y.cpp:3"),
        ("CUDA error: out of memory\nat kernel.cu:1", "CUDA error: out of memory"),
        ("regex parse error:\n    a(\n     ^\nerror: unclosed group", "unclosed group"),
        ("", "RuntimeError"),
    ],
)
def test_errors_are_told_without_where_they_were_raised(raised, said):
    assert told(RuntimeError(raised)) == said
