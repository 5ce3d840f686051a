"""The Python examples of the documents run as they are written, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/chat.md", "docs/client.md", "docs/openai.md"]
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
"""An example, and the output that is shown below it."""

NOT_AN_OUTPUT = "INTERNAL\n└──"
"""A tree of spans is shown below the example that makes them."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_of_a_document_run_one_after_another(
    frontend, shared_frontend, capsys, document
):
    text = (ROOT / document).read_text(encoding="utf-8")
    openai = shared_frontend.wait_for("openai_listening")["address"]
    names = {}
    for example, output in EXAMPLE.findall(text):
        failure = ""
        try:
            here = example.replace("127.0.0.1:50051", frontend.address)
            exec(here.replace("127.0.0.1:8000", openai), names)
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


@pytest.mark.parametrize(
    "document",
    [
        str(path.relative_to(ROOT))
        for pattern in (
            "*.md",
            "docs/**/*.md",
            "clients/*/*.md",
            "models/**/*.md",
            "benchmarks/**/*.md",
        )
        for path in sorted(ROOT.glob(pattern))
    ],
)
def test_every_link_leads_to_a_file_and_a_heading(document):
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), link
        if heading:
            assert heading in _anchors(linked), link


def _anchors(document):
    """Returns the anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
