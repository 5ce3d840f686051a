"""The Python examples of README.md and docs/, run as they are written."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/chat.md", "docs/client.md"]
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
"""An example, and the output that is shown below it."""

NOT_AN_OUTPUT = "INTERNAL\n└──"
"""A tree of spans is shown below the example that makes them."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_of_a_document_run_one_after_another(frontend, capsys, document):
    text = (ROOT / document).read_text(encoding="utf-8")
    names = {}
    for example, output in EXAMPLE.findall(text):
        failure = ""
        try:
            exec(example.replace("127.0.0.1:50051", frontend.address), names)
        except ValueError as error:
            failure = f"ValueError: {error}\n"
        printed = capsys.readouterr().out + failure
        if output and NOT_AN_OUTPUT not in output:
            assert printed == output
        else:
            assert not failure
    assert names
    if "client" in names:
        names["client"].close()
