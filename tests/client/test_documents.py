"""What docs/client.md promises is what happens."""

import json
import re
from pathlib import Path

import pytest

from tests.client.scripted_server import COMPLETED, accepted, delta, end

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"


def keys(value):
    """Returns the names of all fields in a JSON value; an outcome's own name is none."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for name, each in value.items():
        found |= keys(each) if name != "outcomes" else set()
    return found


@pytest.mark.parametrize(
    "command",
    [
        "generate hi",
        "chat hi",
        "tokenize a",
        "detokenize 1",
        "models",
        "workers",
        "top --once",
        "trace --last",
    ],
)
def test_every_field_of_json_is_listed(run, command):
    table = DOCUMENT.read_text(encoding="utf-8").partition("### JSON")[2].partition("\n###")[0]
    code, out, _ = run(*command.split(), "--json")
    assert code == 0
    assert keys(json.loads(out)) <= set(re.findall(r"`(\w+)`", table))


def test_the_example_of_a_session_reads_what_it_opens(server, capsys):
    server.play("", accepted(), delta("a story ", [1], end=end()), COMPLETED)
    (example,) = re.findall(r"```python\n(import asyncio.*?)```", DOCUMENT.read_text(), re.DOTALL)
    exec(example.replace("127.0.0.1:50051", server.address), {})
    assert capsys.readouterr().out == "a story a story "
